"""Real programs give the same output and exit status on the model as natively.

To add a program, add a line to `COMMANDS`, quoted as for a shell. `{file}`, `{dir}` and
`{repo}` are a text file, a directory tree and a git repository made for the test;
other braces are doubled.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.programs import ENVIRONMENT, run_natively, run_on_model

COMMANDS = r"""
true
false
uname -s
uname -a
echo hello world
cat {file}
ls -l /usr/bin
ls -la {dir}
sort {file}
sort -n -r {file}
uniq -c {file}
wc {file}
cut -d: -f1,3 /etc/passwd
head -3 {file}
tail -3 {file}
od -c {file}
sha256sum {file}
md5sum {file}
base64 {file}
seq 1 1000
factor 1234567890123456789
expr 6 '*' 7
printf '%05d-%s\n' 42 x
date -d @0
date -u -d 2020-02-29T12:34:56 +%s
grep -c e {file}
grep -n -E '^[a-m]' {file}
sed 's/a/b/g' {file}
awk '{{ n += length($0) }} END {{ print n }}' {file}
find /etc -name '*.conf'
find {dir} -type f
tar cf - -C {dir} .
gzip -c {file}
gzip -9 -c /etc/services
xz -c {file}
bzip2 -c {file}
diff {file} /etc/passwd
cmp {file} /etc/passwd
man true
lexgrog /usr/share/man/man1/true.1.gz
git --version
git -C {repo} log
git -C {repo} status
git -C {repo} diff HEAD~1
perl -e 'print "a" x 10, "\n"'
perl -MList::Util=sum -e 'print sum(1..100)'
/usr/bin/python3 -c 'print(sum(range(100)))'
/usr/bin/python3 -c 'import json, re, hashlib, ctypes; print(hashlib.md5(b"x").hexdigest())'
bash -c 'for i in 1 2 3; do echo $i; done'
bash -c 'ls /usr/bin | sort | tail -3'
bash -c 'echo $((6 * 7)); exit 3'
bash -c 'cat <<<here | tr a-z A-Z'
bash -c 'x=$(seq 1 5 | paste -sd +); echo $x'
bash -c 'trap "echo caught" USR1; kill -USR1 $$; echo after'
bash -c 'sleep 0.2 & wait; echo done'
bash -c 'kill -9 $$'
bash -c 'ulimit -n'
bash -c 'false || exit 7'
bash -c 'cd /usr/lib; pwd; type ls'
bash -c 'yes | head -2; echo ${{PIPESTATUS[@]}}'
bash -c 'exec 3<{file}; read -u 3 line; echo "$line"'
dash -c 'a=$(uname); echo $a'
dash -c 'echo a >/tmp/samepage-test; cat /tmp/samepage-test; rm /tmp/samepage-test'
sqlite3 :memory: 'create table t(a); insert into t values (1), (2); select sum(a) from t;'
openssl sha256 {file}
gcc --version
id
whoami
stat -c '%n %s %a %F %i' /etc/passwd
readlink -f /bin/sh
realpath /usr/../etc/passwd
basename /a/b.c .c
dirname /a/b.c
tr a-z A-Z
rev {file}
nl {file}
fold -w 10 {file}
fmt {file}
comm {file} {file}
join {file} {file}
paste {file} {file}
shuf -i 1-10 --random-source={file}
tac {file}
tsort {file}
cksum {file}
sum {file}
env
printenv HOME
test 1 -lt 2
sleep 0.01
timeout 5 echo ok
env -i /usr/bin/env
xargs -n1 echo
ldd /bin/ls
file /bin/ls
strings -n 12 /bin/true
readelf -h /bin/true
objdump -f /bin/true
nm -D /bin/true
du -s {dir}
getent passwd root
locale
m4 --version
""".strip().splitlines()

RACY = {"groff"}
"""Programs that write to one stdout from two processes: natively the order varies."""

STDIN = b"some text\nto be read\n" * 20


def _programs_with_version(count: int) -> list[str]:
    """Further programs of /usr/bin, in the order of their names, that print a version."""
    named = {command.split()[0] for command in COMMANDS}
    found: list[str] = []
    for path in sorted(Path("/usr/bin").iterdir()):
        if len(found) == count:
            break
        if path.name in named | RACY or path.is_symlink() or not os.access(path, os.X_OK):
            continue
        if path.read_bytes()[:4] != b"\x7fELF" or path.stat().st_mode & 0o6000:
            continue
        try:
            done = subprocess.run(
                [path, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=ENVIRONMENT,
                timeout=5,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout:
            found.append(path.name)
    return found


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("places")
    file = base / "words.txt"
    words = ["pear", "apple", "fig", "plum", "quince", "apple"] * 30
    file.write_text("".join(f"{word} {i * 7919 % 101}\n" for i, word in enumerate(words)))
    tree = base / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    for name in ("a", "b.conf", "sub/c", "sub/deep/d"):
        (tree / name).write_text(name * 50)
        os.utime(tree / name, (1_500_000_000, 1_500_000_000))
    (tree / "link").symlink_to("sub/c")
    os.link(tree / "a", tree / "hard")
    return {"file": str(file), "dir": str(tree), "repo": str(_make_repository(base / "repo"))}


def _make_repository(repo: Path) -> Path:
    date = "2020-01-01T00:00:00Z"
    git = {**ENVIRONMENT, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    repo.mkdir()
    subprocess.run(["git", "init", "-q", "."], cwd=repo, env=git, check=True)
    for number in (1, 2):
        (repo / "file").write_text(f"line {number}\n" * number)
        subprocess.run(["git", "add", "file"], cwd=repo, env=git, check=True)
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        commit = ["git", *identity, "commit", "-qm", f"commit {number}"]
        subprocess.run(commit, cwd=repo, env=git, check=True)
    return repo


@pytest.mark.parametrize("command", COMMANDS)
def test_same_output_and_exit_status(command: str, places: dict[str, str]) -> None:
    argv = shlex.split(command.format(**places))
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    native = run_natively(argv, STDIN, places["dir"])
    assert run_on_model(argv, STDIN, places["dir"]) == native


@pytest.mark.parametrize("program", _programs_with_version(100))
def test_version_of_further_programs(program: str) -> None:
    argv = [f"/usr/bin/{program}", "--version"]
    assert run_on_model(argv) == run_natively(argv), shlex.join(argv)
