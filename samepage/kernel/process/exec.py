"""execve: a new program in the same process (fs/exec.c).

Up to the point of no return an error leaves the old program as it was. After it, the old
program is gone, and an error kills the process: `ExecFatal`.
"""

from __future__ import annotations

import errno
import os

from samepage.abi.auxv import Aux
from samepage.abi.elf import ElfType, SegmentFlags, SegmentType
from samepage.abi.resource import Rlimit
from samepage.abi.time import USER_HZ
from samepage.arch import PAGE_SIZE, TASK_SIZE, mmap_base
from samepage.kernel.errors import SysError
from samepage.kernel.fs.context import MAY_EXEC
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.address_space import AddressSpace
from samepage.kernel.mm.unmapped_area import get_unmapped_area, page_align
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.kernel.process.elf_loader import (
    BadExecutable,
    ElfImage,
    LoadedElf,
    interpreter_path,
    load_interpreter,
    load_program,
    read_elf,
)
from samepage.kernel.process.exit import kill_other_threads, release_futexes
from samepage.kernel.process.sigset import SigAltStack
from samepage.kernel.process.task import Task
from samepage.kernel.process.user_stack import StackBuilder, create_elf_tables
from samepage.kernel.process.vdso import Vdso
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.inode import Inode
    from samepage.kernel.fs.mapping import Mapping

_BINPRM_BUF_SIZE = 256
_MAX_SCRIPTS = 5
_RSEQ_FEATURE_SIZE = 28
_RSEQ_ALIGN = 32
_STRINGS_LIMIT = 128 << 10
_STRINGS_MAX = 6 << 20


class ExecFatal(Exception):
    """The new program cannot live, and the old one is gone: the process dies of SIGSEGV
    (`bprm_execve`)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@record
class Executable:
    """What is to be run, once scripts have named their interpreters."""

    file: Inode
    image: ElfImage
    interpreter: ElfImage | None
    argv: list[bytes]
    scripts: list[tuple[bytes, bytes | None, bytes]]
    """For each `#!` line met: (interpreter, its argument, the script's path)."""
    needs_interpreter: bool = False
    """The file has PT_INTERP: it goes where such programs go, even without it."""


def do_execve(
    task: Task,
    filename: bytes,
    argv: list[bytes],
    envp: list[bytes],
    base: Path | None = None,
    opened: Path | None = None,
    *,
    run_interpreter: bool = True,
) -> None:
    """Replace the program of `task`'s process (`do_execveat_common`).

    `opened` is the file itself if it was given by a descriptor: `filename` only names it.
    Without `run_interpreter` the interpreter is mapped if it exists, but execution is to
    start in the program itself: the machine does the interpreter's work. Everything lies
    where it would lie otherwise.

    Raises `SysError` before the point of no return, `ExecFatal` after it.
    """
    kernel = task.kernel
    executable = find_executable(task, filename, argv, base, opened, optional=not run_interpreter)
    name = filename
    if opened is not None and kernel.config.rules.comm_of_a_descriptor_is_its_file:
        name = _dentry_name(executable)
    mm = kernel.new_address_space()
    mm.faults = task.faults
    try:
        stack = _copy_strings(task, mm, filename, argv, envp, executable)
    except BaseException:
        mm.put()
        raise
    _begin_new_exec(task, mm, name, executable)
    try:
        _load(task, stack, executable, envp, run_interpreter)
    except SysError as error:
        reason = error.reason if isinstance(error, BadExecutable) else str(error)
        raise ExecFatal(reason) from None
    task.process.faults_before = task.process.total_faults()


def find_executable(
    task: Task,
    filename: bytes,
    argv: list[bytes],
    base: Path | None,
    opened: Path | None = None,
    *,
    optional: bool = False,
) -> Executable:
    """Open what `filename` names, through scripts, down to ELF files. Raises `SysError`.

    With `optional` an interpreter that does not exist is no error.
    """
    kernel = task.kernel
    scripts: list[tuple[bytes, bytes | None, bytes]] = []
    filp, mapping = _open_exec(task, filename, base, opened)
    name = filename
    while True:
        head = kernel.cache.read(mapping, 0, _BINPRM_BUF_SIZE)
        if not head.startswith(b"#!"):
            break
        if len(scripts) >= _MAX_SCRIPTS:
            raise SysError(errno.ELOOP)
        interpreter, argument = _parse_script(head)
        scripts.append((interpreter, argument, name))
        name = interpreter
        filp, mapping = _open_exec(task, interpreter, None)
    file = filp.inode
    image = read_elf(kernel.cache, mapping, filp.shown_name, filp)
    wanted = interpreter_path(kernel.cache, image)
    loader = None
    if wanted is not None:
        try:
            # The empty name is the working directory here (`getname_kernel`).
            filp, mapping = _open_exec(task, wanted or b".", None)
        except SysError as error:
            if optional:
                return Executable(file, image, None, list(argv), scripts, needs_interpreter=True)
            text = wanted.decode(errors="backslashreplace")
            raise BadExecutable(error.errno, f"its interpreter {text}: {error}") from None
        loader = read_elf(kernel.cache, mapping, filp.shown_name, filp)
    return Executable(
        file, image, loader, list(argv), scripts, needs_interpreter=wanted is not None
    )


def _dentry_name(executable: Executable) -> bytes:
    """The name of the file in its directory, which a file that was removed has still."""
    name = os.fsencode(executable.image.path)
    return name if executable.file.nlink else name.removesuffix(b" (deleted)")


def _open_exec(
    task: Task, name: bytes, base: Path | None, opened: Path | None = None
) -> tuple[OpenFile, Mapping]:
    """Open a file that may be executed; it and its content (`do_open_execat`).

    Raises `SysError`: also ETXTBSY if it is open for writing.
    """
    vfs = task.kernel.vfs
    path = opened or vfs.lookup(task.process.fs, name, base=base)
    if path.inode.mapping is None:
        raise SysError(errno.EACCES)
    task.process.fs.cred.require(path.inode, MAY_EXEC)
    if path.inode.writers:
        raise SysError(errno.ETXTBSY)
    return OpenFile(path, os.O_RDONLY), path.inode.mapping


def _parse_script(head: bytes) -> tuple[bytes, bytes | None]:
    """The interpreter and its one optional argument of a `#!` line (`load_script`)."""
    line, newline, _ = head[2:].partition(b"\n")
    if not newline:
        line = head[2 : _BINPRM_BUF_SIZE - 1]
    text = line.strip(b" \t")
    if not newline and (not text or not (b" " in text or b"\t" in text or len(head) < 256)):
        raise SysError(errno.ENOEXEC)
    if not text:
        raise SysError(errno.ENOEXEC)
    parts = text.replace(b"\0", b"").split(None, 1)
    return parts[0], parts[1] if len(parts) > 1 else None


def _copy_strings(
    task: Task,
    mm: AddressSpace,
    filename: bytes,
    argv: list[bytes],
    envp: list[bytes],
    executable: Executable,
) -> StackBuilder:
    """Write the strings to the new stack, while the old program can still be returned to."""
    limit = task.process.limit(Rlimit.STACK)
    mm.limits = task.process.memory_limits()
    mm.mmap_base = mmap_base(mm.limits.stack)
    allowed = max(min(limit // 4, _STRINGS_MAX * 3 // 4), _STRINGS_LIMIT)
    allowed -= 8 * (max(len(argv), 1) + len(envp))
    if allowed <= 0:
        raise SysError(errno.E2BIG)
    stack = StackBuilder(mm, allowed)
    stack.execfn = stack.push(filename)
    stack.push_all(envp)
    arguments = executable.argv or [b""]
    stack.push_all(arguments)
    for interpreter, argument, script in executable.scripts:
        stack.pop(arguments[0])
        arguments[0:1] = [interpreter, *([argument] if argument is not None else []), script]
        stack.push(script)
        if argument is not None:
            stack.push(argument)
        stack.push(interpreter)
    executable.argv = arguments
    return stack


def _begin_new_exec(task: Task, mm: AddressSpace, filename: bytes, executable: Executable) -> None:
    """The point of no return (`begin_new_exec`): the process gets its new memory."""
    process = task.process
    kill_other_threads(task)
    release_futexes(task)
    mm.set_executable(executable.file)
    _exec_mmap(task, mm)
    if process.files.users > 1:
        process.files.users -= 1
        process.files = process.files.copy()
    process.files.close_on_exec()
    process.actions = process.actions.copy()
    process.actions.flush_handlers()
    process.comm = filename.rsplit(b"/", 1)[-1][:15].decode(errors="replace")
    process.exe_path = executable.image.path
    process.exe = executable.image.filp.path
    process.argv = executable.argv
    task.altstack = SigAltStack()
    task.clear_child_tid = task.rseq_area = 0


def _exec_mmap(task: Task, mm: AddressSpace) -> None:
    """Give the process a new address space in place of its own (`exec_mmap`)."""
    process, kernel = task.process, task.kernel
    task.mm.put()
    process.mm = mm
    process.vfork_done = True
    if kernel.scheduler.current is task:
        mm.context.activate()


def _load(
    task: Task,
    stack: StackBuilder,
    executable: Executable,
    envp: list[bytes],
    run_interpreter: bool,
) -> None:
    """Map program, interpreter and vDSO, and write the tables (`load_elf_binary`)."""
    kernel, mm, image = task.kernel, stack.mm, executable.image
    stack.finish(_executable_stack(image))
    mm.layout.start_stack = stack.top
    program = load_program(mm, image, executable.needs_interpreter)
    entry, base = program.entry, 0
    if executable.interpreter is not None:
        loader = load_interpreter(mm, executable.interpreter)
        base = loader.bias
        entry = loader.entry if run_interpreter else program.entry
    _set_layout(mm, image, program, not executable.needs_interpreter)
    vdso = _map_vdso(kernel.vdso, mm)
    aux = _auxiliary_vector(task, image, program, base, vdso)
    sp, auxv = create_elf_tables(stack, executable.argv, envp, aux, kernel.random_bytes(16))
    mm.layout.start_stack = sp
    task.process.auxv = auxv
    kernel.scheduler.start_thread(task, entry, sp)


def _executable_stack(image: ElfImage) -> bool:
    for segment in image.segments:
        if segment.type == SegmentType.GNU_STACK:
            return bool(segment.flags & SegmentFlags.X)
    return False


def _set_layout(mm: AddressSpace, image: ElfImage, program: LoadedElf, static: bool) -> None:
    layout = mm.layout
    layout.start_code, layout.end_code = program.start_code, program.end_code
    layout.start_data, layout.end_data = program.start_data, program.end_data
    start = page_align(program.end_bss)
    if image.header.type == ElfType.DYN and static:
        # A loader or static PIE lies among the mappings, where a heap could not grow. Where
        # other programs are loaded, but rounded up to a page, not down (`load_elf_binary`).
        start = page_align(TASK_SIZE // 3 * 2)
    mm.brk.start = mm.brk.end = start


def _map_vdso(vdso: Vdso | None, mm: AddressSpace) -> int:
    """Map `[vvar]`, `[vvar_vclock]` and `[vdso]`; return the vDSO's address, 0 without one."""
    if vdso is None:
        return 0
    image = vdso.image
    code_size = page_align(len(image.code))
    read = VmFlags.READ | VmFlags.MAYREAD
    data = read | VmFlags.IO | VmFlags.DONTEXPAND | VmFlags.DONTDUMP | VmFlags.PFNMAP
    code = read | VmFlags.EXEC | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.DONTEXPAND
    areas = [
        ("[vvar]", image.vvar_size, data),
        ("[vvar_vclock]", image.vclock_size, data),
        ("[vdso]", code_size, code),
    ]
    address = get_unmapped_area(mm, sum(size for _, size, _ in areas))
    for name, size, flags in areas:
        if size:
            mm.vmas.insert(Vma(address, address + size, flags, special=name))
        address += size
    mm.special_pages = vdso.pages
    return address - code_size


def _auxiliary_vector(
    task: Task, image: ElfImage, program: LoadedElf, base: int, vdso: int
) -> list[tuple[int, int]]:
    """The entries in the order of `ARCH_DLINFO` and `create_elf_tables`."""
    config, cred = task.kernel.config, task.process.fs.cred
    first = [(Aux.SYSINFO_EHDR, vdso)] if vdso else []
    rseq = [(Aux.RSEQ_FEATURE_SIZE, _RSEQ_FEATURE_SIZE), (Aux.RSEQ_ALIGN, _RSEQ_ALIGN)]
    return [
        *first,
        (Aux.MINSIGSTKSZ, config.min_sigstack_size),
        (Aux.HWCAP, task.kernel.cpu.hwcap),
        (Aux.PAGESZ, PAGE_SIZE),
        (Aux.CLKTCK, USER_HZ),
        (Aux.PHDR, program.phdr),
        (Aux.PHENT, image.header.phentsize),
        (Aux.PHNUM, image.header.phnum),
        (Aux.BASE, base),
        (Aux.FLAGS, 0),
        (Aux.ENTRY, program.entry),
        (Aux.UID, cred.uid),
        (Aux.EUID, cred.euid),
        (Aux.GID, cred.gid),
        (Aux.EGID, cred.egid),
        (Aux.SECURE, 0),
        (Aux.RANDOM, 0),
        (Aux.HWCAP2, config.hwcap2),
        (Aux.EXECFN, 0),
        (Aux.PLATFORM, 0),
        *(rseq if config.rules.rseq_in_auxv else ()),
    ]
