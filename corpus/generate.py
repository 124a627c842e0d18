"""Write corpus/debian12.txt: the command lines that `samepage verify --corpus` runs.

    python3 corpus/generate.py > corpus/debian12.txt

The first part is found on this machine: every dynamically linked program of the base
system's packages, and of /usr/bin, that ends by itself with success natively when called
with --version, or else with --help. The second part is written by hand, below: real work,
pairs and triples, the same program twice, trees of processes.

Programs are called with nothing but such an option, standard input at its end, and five
seconds to live; those that by their names end the machine are not called at all.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

BASE_PRIORITIES = {"required", "important", "standard"}
DIRECTORIES = ("/usr/bin", "/usr/sbin")
NEVER = {
    *("halt", "poweroff", "reboot", "shutdown", "init", "telinit", "runlevel", "kexec"),
    *("switch_root", "pivot_root", "agetty", "getty", "login", "su", "sulogin", "fsfreeze"),
    # Their output, and so their work, is that of the moment.
    *("top", "slabtop", "watch", "script", "scriptlive"),
}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LC_ALL": "C",
    "TERM": "dumb",
}

WRITTEN = """
# Real work
true
false
uname -s
uname -a
echo hello world
cat /etc/passwd
cat /usr/share/common-licenses/GPL-3
ls -l /usr/bin
ls -lR /etc
ls --color=always /
sort /etc/services
sort -r -u /usr/share/common-licenses/GPL-3
uniq -c /etc/services
wc /usr/share/common-licenses/GPL-3
cut -d: -f1 /etc/passwd
tr a-z A-Z
head -5 /etc/services
tail -5 /etc/services
od -c /etc/hostname
sha256sum /usr/bin/git
md5sum /usr/bin/bash
cksum /usr/bin/bash
b2sum /usr/bin/dash
base64 /usr/bin/true
seq 1 1000
factor 123456789012345
expr 6 * 7
printf %d 42
date -d @0
date -u -d @1700000000 +%F
stat /etc/passwd
du -s /etc
df /
id
env
basename /usr/bin/git
dirname /usr/bin/git
readlink -f /bin/sh
realpath /usr/bin/awk
tac /etc/services
rev /etc/passwd
nl /etc/services
fold -w 20 /etc/services
fmt /usr/share/common-licenses/GPL-2
paste /etc/passwd /etc/group
join /etc/passwd /etc/passwd
comm /etc/passwd /etc/group
shuf -i 1-10 --random-source=/dev/zero
tsort /dev/null
dd if=/usr/bin/bash of=/dev/null bs=64k
cmp /usr/bin/bash /usr/bin/dash
diff /etc/passwd /etc/group
diff -u /usr/share/common-licenses/GPL-2 /usr/share/common-licenses/GPL-3
grep -c http /etc/services
grep -rl root /etc/pam.d
grep -E (tcp|udp) /etc/services
sed s/a/b/ /etc/passwd
sed -n $p /etc/services
awk {n+=NF}END{print+n} /etc/services
find /etc -name *.conf
find /usr/share/doc/bash -type f
tar cf - /etc/apt
gzip -c /usr/share/common-licenses/GPL-3
gzip -9 -c /usr/bin/dash
xz -c /usr/share/common-licenses/GPL-3
bzip2 -c /usr/share/common-licenses/GPL-3
git --version
git --help
git hash-object /etc/passwd
git ls-remote /nonexistent
perl -e "print join(',', sort map { $_ * 2 } 1..100)"
perl -MPOSIX -e "print floor(3.7)"
/usr/bin/python3 -c "print(42)"
/usr/bin/python3 -S -c "print(sum(range(1000)))"
/usr/bin/python3 -c "import json, re, hashlib; print(json.dumps({'a': 1}))"
bash -c "for i in 1 2 3; do echo $i; done"
bash -c "a=1; while [ $a -lt 50 ]; do a=$((a+1)); done"
bash --norc -c "type ls"
dash -c "echo hello"
dash -c "i=0; while [ $i -lt 100 ]; do i=$((i+1)); done"
sqlite3 :memory: "create table t(x); insert into t values(1); select * from t"
openssl version -a
openssl sha256 /etc/passwd
gcc --version
gcc -dumpmachine
gdb --version
getent passwd root
getconf -a
locale
file /usr/bin/bash
strings /usr/bin/true
readelf -h /usr/bin/bash
readelf -d /usr/bin/git
objdump -f /usr/bin/bash
nm -D /usr/bin/dash
ldconfig -p
dpkg --version
dpkg -l bash
dpkg-query -W bash
mount
ps --version
ip -V
ss -V
hostname
whoami
nproc
tty
pwd
printenv PATH
logname
groups
arch
sleep 0
timeout 5 true
nice true
env -i true
nohup true
setsid true
xargs true
stdbuf -o0 true

# Together
true ::: true
true ::: false
uname -a ::: true
ls / ::: cat /etc/passwd
cat /etc/passwd ::: cat /etc/passwd
git --version ::: git --version
git --version ::: sqlite3 --version
bash -c "echo a" ::: dash -c "echo b"
bash -c "echo a" ::: bash -c "echo a"
perl -e 1 ::: perl -e 2
/usr/bin/python3 -c "print(1)" ::: /usr/bin/python3 -c "print(2)"
/usr/bin/python3 -c "import json" ::: perl -e 1
sha256sum /etc/passwd ::: md5sum /etc/passwd
sort /etc/services ::: sort /etc/services
openssl version ::: openssl sha256 /etc/passwd
gzip -c /etc/services ::: xz -c /etc/services
grep -c a /etc/services ::: sed s/a/b/ /etc/services ::: awk {print} /etc/services
ls -l / ::: id ::: stat /
true ::: uname -a ::: git --version
cat /dev/null ::: head -1 /etc/passwd ::: tail -1 /etc/passwd
diff /etc/passwd /etc/group ::: cmp /etc/passwd /etc/group ::: comm /etc/passwd /etc/group
true ::: true ::: true
dash -c "echo a" ::: dash -c "echo b" ::: dash -c "echo c"
tar cf - /etc/apt ::: find /etc/apt ::: du -s /etc/apt
gdb --version ::: gcc --version

# Trees
bash -c "ls /usr/bin | sort | tail -3"
bash -c "ls /usr/bin | wc -l"
bash -c "cat /etc/passwd | grep root | cut -d: -f1"
bash -c "(exit 3); echo $?"
bash -c "a=$(uname); echo $a"
bash -c "echo $(echo $(echo deep))"
bash -c "true; true; true"
bash -c "sort < /etc/services | uniq | head -2"
bash -c "for i in 1 2 3; do /usr/bin/true; done"
bash -c "/usr/bin/true & wait"
bash -c "exec uname -a"
dash -c "a=$(uname); echo $a"
dash -c "ls / | cat"
dash -c "uname -a | sed s/Linux/linux/ | tr a-z A-Z"
dash -c "(echo sub)"
dash -c "true && /usr/bin/true && /usr/bin/false"
sh -c "ls / | sort -r | head -1"
env dash -c "uname; uname"
xargs -a /etc/hostname echo
find /etc/apt -maxdepth 1 -exec true {} ;
perl -e "system('true'); print 1"
perl -e "print `uname`"
/usr/bin/python3 -c "import os; os.system('true')"
/usr/bin/python3 -c "import subprocess; subprocess.run(['uname'])"
/usr/bin/python3 -c "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)"
timeout 5 bash -c "ls / | sort"
tar czf /dev/null /etc/apt
git -c core.pager=cat --exec-path
bash -c "ls / | sort" ::: bash -c "ls / | sort"
dash -c "uname | cat" ::: uname ::: cat /etc/hostname
"""


def base_packages() -> set[str]:
    """The packages that every Debian has."""
    out = _output(["dpkg-query", "-W", "-f=${Priority} ${binary:Package}\n"])
    pairs = (line.split() for line in out.splitlines())
    return {package for priority, package in pairs if priority in BASE_PRIORITIES}


def base_programs() -> list[str]:
    """The executables of these packages, and all of /usr/bin, as absolute paths."""
    files = _output(["dpkg-query", "-L", *sorted(base_packages())]).splitlines()
    named = {os.path.join(os.path.realpath(os.path.dirname(f)), os.path.basename(f)) for f in files}
    programs = {path for path in named if os.path.dirname(path) in DIRECTORIES}
    programs |= {entry.path for entry in os.scandir("/usr/bin")}
    return sorted(path for path in programs if _is_dynamic(path))


def _is_dynamic(path: str) -> bool:
    """A program of this CPU that asks for an interpreter; each file once, not its links."""
    if os.path.islink(path) or not os.access(path, os.X_OK) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    return head[:5] == b"\x7fELF\x02" and b"/lib64/ld-linux-x86-64.so.2\0" in head


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def option_that_ends(path: str) -> str | None:
    """`--version` or `--help`, whichever this program ends with successfully, or None."""
    if os.path.basename(path) in NEVER:
        return None
    return next((option for option in ("--version", "--help") if _ends(path, option)), None)


def _ends(path: str, option: str) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                [path, option],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd=directory,
                timeout=5,
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def main() -> None:
    programs = base_programs()
    with ThreadPoolExecutor(4) as pool:
        options = list(pool.map(option_that_ends, programs))
    print("# Written by corpus/generate.py: one group of programs a line, `:::` between them.")
    print("# Words are split as a POSIX shell splits them, without any expansion.")
    print(WRITTEN.rstrip())
    print("\n# Every dynamically linked program that ends by itself with --version or --help")
    written = 0
    for path, option in zip(programs, options, strict=True):
        if option:
            print(f"{path} {option}")
            written += 1
    print(f"{written} of {len(programs)} programs end by themselves", file=sys.stderr)


if __name__ == "__main__":
    main()
