"""The other side of the differential test: a process of the live kernel.

Reads a JSON list of operations from stdin, does each of them on an arena at fixed
addresses, and writes a JSON list with, for each, the result and how the arena then looks.
Memory is touched by `write` from it and `read` into it on a pipe, so that a bad address is
EFAULT and no signal. It imports nothing of samepage.
"""

import ctypes
import gc
import json
import mmap
import os
import struct
import sys

PAGE = 4096
SYS = {
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "mremap": 25,
    "msync": 26,
    "mincore": 27,
    "madvise": 28,
    "mlock": 149,
    "munlock": 150,
    "mlock2": 325,
}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Rusage(ctypes.Structure):
    _fields_ = (
        ("times", ctypes.c_long * 4),
        ("rss", ctypes.c_long * 4),
        ("minflt", ctypes.c_long),
        ("majflt", ctypes.c_long),
        ("rest", ctypes.c_long * 8),
    )


def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a) for a in args])
    return -ctypes.get_errno() if result == -1 else result


class Agent:
    def __init__(self, arena, pages, path):
        self.arena, self.pages = arena, pages
        self.fds = {"a": os.open(path, os.O_RDWR), "b": os.open(path, os.O_RDWR)}
        self.fds["ro"] = os.open(path, os.O_RDONLY)
        self.fds["mem"] = os.memfd_create("m")
        os.ftruncate(self.fds["mem"], 24 * PAGE)
        self.fds["zero"] = os.open("/dev/zero", os.O_RDWR)
        self.pipe = os.pipe()
        self.usage = Rusage(), Rusage()
        self.byte = ctypes.create_string_buffer(8)
        self.children = []
        self.placed = []
        self.vector = ctypes.create_string_buffer(pages)

    def touch(self, address, write):
        first, last = (ctypes.byref(u) for u in self.usage)
        read_end, write_end = self.pipe
        function = libc.read if write else libc.write
        fd = read_end if write else write_end
        if write:
            os.write(write_end, b"x")
        pointer = ctypes.c_void_p(address)
        libc.getrusage(0, first)
        done = function(fd, pointer, 1)
        libc.getrusage(0, last)
        if (done == 1) != bool(write):
            os.read(read_end, 1)
        # Code of Python's own that runs only after an error may fault, a bad access never.
        return [done, self.usage[1].minflt - self.usage[0].minflt if done == 1 else 0]

    def do(self, name, *args):
        if name == "touch":
            for write in (0, 1, 0, 1):  # at first Python's own memory may fault
                self.touch(ctypes.addressof(self.byte), write)
            return self.touch(*args)
        if name == "mmap":
            address, length, prot, flags, fd, offset = args
            number = self.fds[fd] if fd else (1 << 64) - 1
            return call(SYS["mmap"], address, length, prot, flags, number, offset)
        if name == "place":  # where does the kernel put it, given all these mappings?
            before = self.ranges()
            address = self.do("mmap", *args)
            after = self.ranges()
            if address > 0:
                self.placed.append([address, args[1]])
            known = merged([*before, [address, address + -(-args[1] // PAGE) * PAGE, 0]])
            return [address, before if merged(after) == known else None]
        if name == "drop":  # unmap one of those, not the last
            if len(self.placed) > 2:
                call(SYS["munmap"], *self.placed.pop(len(self.placed) // 2))
            return 0
        if name == "mincore":
            done = call(SYS["mincore"], *args, ctypes.addressof(self.vector))
            return done or self.vector.raw[: args[1] // PAGE].hex()
        if name == "fork":  # a child that lives on, and only waits
            ready, signal = os.pipe()
            pid = os.fork()
            if not pid:
                os.write(signal, b"r")
                while True:
                    os.read(self.never(), 1)
            os.read(ready, 1)
            self.children.append(pid)
            return 0
        if name == "reap":
            if self.children:
                pid = self.children.pop()
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            return 0
        if name == "descend":  # continue as the child; the parent keeps its memory
            pid = os.fork()
            if pid:
                _, status = os.waitpid(pid, 0)
                for child in self.children:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                os._exit(os.waitstatus_to_exitcode(status))
            self.children = []
            return 0
        if name == "truncate":
            # What a disk's file does when it grows again is a matter of its file system.
            if args[0] != "mem" and os.fstat(self.fds[args[0]]).st_size < args[1]:
                return 0
            os.ftruncate(self.fds[args[0]], args[1])
            return 0
        return call(SYS[name], *args)

    def never(self):
        if not hasattr(self, "_never"):
            self._never = os.pipe()
        return self._never[0]

    def look(self):
        end = self.arena + self.pages * PAGE
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(self.arena // PAGE * 8)
            entries = struct.unpack(f"{self.pages}Q", file.read(self.pages * 8))
        present = [
            [n, entry & (1 << 55) - 1, entry >> 61 & 1]
            for n, entry in enumerate(entries)
            if entry >> 63
        ]
        with open("/proc/kpageflags", "rb", 0) as file:
            for page in present:
                file.seek(page[1] * 8)
                flags = struct.unpack("Q", file.read(8))[0]
                page.append(flags >> 24 & 1)
        return {"vmas": self.vmas(end), "present": present}

    def ranges(self):
        with open("/proc/self/smaps", "rb") as file:
            lines = file.read().decode().splitlines()
        found = []
        for line in lines:
            words = line.split()
            if words[0] == "VmFlags:":
                found[-1][2] = int("gd" in words)
            elif not words[0].endswith(":"):
                found.append([*(int(x, 16) for x in words[0].split("-")), 0])
        return [r for r in found if r[1] < 1 << 47]

    def vmas(self, end):
        found, keep = [], False
        with open("/proc/self/smaps", "rb") as file:
            text = file.read().decode()
        for line in text.splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                start, stop = (int(x, 16) for x in words[0].split("-"))
                keep = start < end and stop > self.arena
                if keep:
                    name = "".join(words[5:6]).rsplit("/", 1)[-1]
                    found.append([start, stop, words[1], int(words[2], 16), name, {}])
            elif keep and words[0] == "VmFlags:":
                found[-1][5]["flags"] = words[1:]
            elif keep and words[-1] == "kB":
                found[-1][5][words[0][:-1]] = int(words[1])
        return found


def merged(ranges):
    """The addresses that ranges cover, whatever they are divided into."""
    result = []
    for start, end, _ in sorted(ranges):
        if result and result[-1][1] == start:
            result[-1][1] = end
        else:
            result.append([start, end])
    return result


def main():
    if "fixed" not in sys.argv:
        libc.personality(0x0040000)  # ADDR_NO_RANDOMIZE
        os.execv(sys.executable, [sys.executable, "-I", __file__, "fixed"])
    gc.disable()
    request = json.load(sys.stdin)
    agent = Agent(request["arena"], request["pages"], request["path"])
    answers = []
    for operation in request["operations"]:
        result = agent.do(*operation)
        answers.append([result, agent.look()])
    sys.stdout.write(json.dumps(answers))
    sys.stdout.flush()
    for child in agent.children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    assert mmap.PAGESIZE == PAGE
    main()
