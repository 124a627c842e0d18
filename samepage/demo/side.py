"""The few actions that the story needs of a machine, be it the model or the live kernel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from samepage.demo.evidence import Fault, Page, Segment
from samepage.snapshot.tables import Snapshot


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: `path` for execve, and the words that the program gets."""

    path: str
    argv: Sequence[str]


class Held(Protocol):
    """A program that is stopped whenever the story looks at it."""

    pid: int

    def run_until_mapped(self, library: str) -> None:
        """Run up to the end of the mmap that maps the library's last segment, the writable
        one. Raises `SamepageError` if the program ends before."""

    def run_until_call(self, addresses: Mapping[int, str]) -> tuple[int, int]:
        """Run until the first instruction of a function at one of the addresses has been
        fetched; return that address, and how many pages of its VMA the fetch made present.
        Raises `SamepageError` if the program ends before."""

    def run_to_exit(self) -> None:
        """Run up to `exit_group`; the memory stays."""

    def segments(self, library: str) -> list[Segment]:
        """The library's VMAs in ascending order."""

    def pages(self, library: str) -> list[Page]:
        """The library's present pages in ascending order."""

    def touch(self, address: int) -> None:
        """Have the byte at an address read, with the fault that this may take."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the program's memory."""

    def faults(self) -> tuple[int, int]:
        """Minor and major faults of the program so far."""

    def library_faults(self, library: str) -> list[Fault]:
        """The faults on the library so far, where they are told one by one."""


class Side(Protocol):
    """A machine on which programs are started and held."""

    def start(self, program: Program) -> Held:
        """Start a program, and stop it before its first instruction."""

    def cached(self, library: str) -> dict[int, int]:
        """The page cache's pages of the file: file page -> frame."""

    def cached_bytes(self, library: str, file_page: int) -> bytes:
        """The content of a page in the page cache."""

    def snapshot(self) -> Snapshot:
        """All held programs' memory."""
