"""The five steps, and the two acts that go through them.

    1 mapped   the first program has just mapped the library: addresses, and no page
    2 call     its first call into the library: pages come by faults
    3 second   another program, other addresses, the same frames
    4 write    private data is written: a frame of its own, for the writer only
    5 sum      what was mapped, what it costs, what sharing saves

In step 4 the second program is stopped where it has just mapped the library, and one byte
of each page of its writable segment is read: those pages now show the page cache's frames.
Then it runs on by itself. A page that has another frame at the end was written by ld.so (a
relocation) or by the program, and copied for it.
"""

import os
import tempfile
from dataclasses import dataclass

import numpy as np

from samepage.analysis.sharing import Sharing
from samepage.demo.compiled import build, compiler
from samepage.demo.evidence import (
    ActReport,
    Call,
    Evidence,
    Mapped,
    Second,
    SharedPage,
    Story,
    Sum,
    Write,
)
from samepage.demo.programs import Choice, choose
from samepage.errors import SamepageError
from samepage.lab.environment import ENVIRONMENT
from samepage.lab.host_state import host_state
from samepage.lab.live_side import LiveSide
from samepage.lab.model_side import ModelSide
from samepage.lab.scenario import MachineOptions, Scenario, replace
from samepage.lab.side import Held, HoldingSide, Page
from samepage.live.cached_frames import why_no_frames
from samepage.stop_at import StopAt

_PAGE, _WORD = 4096, 8


def make_story(*, live: bool = True) -> Story:
    """Both acts, on the model and, unless `live` is False, on the live kernel too.

    Raises `SamepageError` if this system has no two programs for it.
    """
    no_live = why_no_frames() if live else "--no-live was given"
    story = Story()
    story.acts.append(_act("Two programs of this system", choose(), no_live, cold=False))
    cc = compiler()
    if cc is None:
        story.skipped.append("The second act needs a C compiler, and there is none (cc).")
        return story
    # Files in /tmp may live in memory only (tmpfs), and cannot be dropped from it.
    place = "/var/tmp" if os.access("/var/tmp", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="samepage-demo-", dir=place) as directory:
        try:
            choice = build(directory, cc)
        except SamepageError as error:
            story.skipped.append(f"The second act is left out: {error.message}.")
            return story
        story.acts.append(_act("A library whose functions we know", choice, no_live, cold=True))
    return story


def _act(title: str, choice: Choice, no_live: str, *, cold: bool) -> ActReport:
    """One pair of programs. `cold`: the library is in no page cache at the start."""
    scenario = _scenario(choice, cold)
    model = _evidence(ModelSide(), scenario, choice, choice.calls)
    report = ActReport(
        title,
        choice.about,
        choice.library,
        list(choice.first.argv),
        list(choice.second.argv),
        cold,
        model,
        no_live=no_live,
    )
    if no_live:
        return report
    called = {a: name for a, name in choice.calls.items() if name == model.call.function}
    try:
        report.live = _evidence(LiveSide(), scenario, choice, called)
    except SamepageError as error:
        report.no_live = error.message
    except OSError as error:
        report.no_live = f"the live kernel did not let us: {error.strerror or error}"
    return report


def _scenario(choice: Choice, cold: bool) -> Scenario:
    """Both programs. The model's page cache has every file, as a system has that has run for a
    while, and is cut into the folios of this system's; only a cold library must be read."""
    library = choice.library
    files = [library.path, choice.first.path, choice.second.path]
    host = host_state(files, [library.path] if cold else [])
    if cold:
        host = replace(host, resident={library.path: np.zeros(library.pages, dtype=bool)})
    return Scenario(
        [choice.first.command, choice.second.command],
        ENVIRONMENT,
        cold_files=(library.path,) if cold else (),
        machine=MachineOptions(ram="1G", timeline=True),
        host=host,
    )


def _evidence(
    side: HoldingSide, scenario: Scenario, choice: Choice, calls: dict[int, str]
) -> Evidence:
    with side:
        side.prepare(scenario)
        return Narrator(side, choice).gather(calls)


@dataclass(slots=True)
class _Moment:
    """What one program has of the library at one moment: pages by file page, and, as far as
    it was read, what is in them."""

    pages: dict[int, Page]
    contents: dict[int, bytes]


class Narrator:
    """The five steps on one side. `first` and `second` are the programs, once started."""

    def __init__(self, side: HoldingSide, choice: Choice) -> None:
        self.side = side
        self.choice = choice
        self.path = choice.library.path

    def gather(self, calls: dict[int, str]) -> Evidence:
        """Run both programs, and gather the evidence. `calls` are the library's functions
        by address, of which the first program's first call is to be found.

        Raises `SamepageError` if a program does not come to one of the instants.
        """
        side, path = self.side, self.path
        cached_before = len(side.cached(path))
        self.first = first = side.start(self.choice.first.command)
        first.run_until_mapped(path)
        mapped = self._mapped(cached_before)
        call = self._call(mapped, calls)
        first.run_to(StopAt.EXIT)

        # The first program is stopped from here on: what it has can only stay as it is.
        first_before = self._moment(first)
        cached = set(side.cached(path))
        self.second = second = side.start(self.choice.second.command)
        at_start = second.faults()
        second.run_until_mapped(path)
        at_map = len(second.pages(path))
        seen = self._read_private_data()
        second.run_to(StopAt.EXIT)
        return Evidence(
            mapped,
            call,
            self._second(at_map, cached, at_start),
            self._write(seen, first_before),
            self._sum(),
        )

    def _mapped(self, cached_before: int) -> Mapped:
        first, path = self.first, self.path
        segments = first.segments(path)
        present, cached = len(first.pages(path)), len(self.side.cached(path))
        return Mapped(
            first.pid,
            segments[0].start,
            segments,
            sum(segment.pages for segment in segments),
            present,
            cached,
            cached_before,
        )

    def _call(self, mapped: Mapped, calls: dict[int, str]) -> Call:
        first, path = self.first, self.path
        before, seen = first.faults(), len(first.file_faults(path))
        functions = {mapped.base + address: name for address, name in calls.items()}
        address, fetched = first.run_until_call(functions)
        after = first.faults()
        present = first.pages(path)
        page = next(page for page in present if 0 <= address - page.address < _PAGE)
        return Call(
            functions[address],
            address,
            page.file_page,
            page.frame,
            fetched,
            present,
            first.file_faults(path)[seen:],
            len(self.side.cached(path)),
            after[0] - before[0],
            after[1] - before[1],
        )

    def _read_private_data(self) -> dict[int, Page]:
        """Have the second program's pages of private data read; what is mapped there then."""
        second = self.second
        writable = [s for s in second.segments(self.path) if "w" in s.perms]
        for segment in writable:
            for address in range(segment.start, segment.end, _PAGE):
                second.touch(address)
        return {
            page.file_page: page
            for page in second.pages(self.path)
            if any(segment.start <= page.address < segment.end for segment in writable)
        }

    def _second(self, at_map: int, cached: set[int], at_start: tuple[int, int]) -> Second:
        path, second = self.path, self.second
        cache = self.side.cached(path)
        ours = {page.file_page: page for page in self.first.pages(path) if not page.private}
        theirs = {page.file_page: page for page in second.pages(path) if not page.private}
        shared = [
            SharedPage(
                number,
                ours[number].address,
                theirs[number].address,
                ours[number].frame,
                theirs[number].frame,
                cache[number],
            )
            for number in sorted(ours.keys() & theirs.keys())
        ]
        minor, major = second.faults()
        return Second(
            second.pid,
            second.segments(path)[0].start,
            at_map,
            shared,
            len(ours.keys() - theirs.keys()),
            len(theirs.keys() - ours.keys()),
            len(set(cache) - cached),
            minor - at_start[0],
            major - at_start[1],
        )

    def _moment(self, held: Held) -> _Moment:
        pages = {page.file_page: page for page in held.pages(self.path)}
        contents = {n: held.read(page.address, _PAGE) for n, page in pages.items()}
        return _Moment(pages, contents)

    def _write(self, seen: dict[int, Page], before: _Moment) -> Write | None:
        """The most instructive page: one that only the second program has copied; else one
        that both have, each its own. None if it copied none that it had seen before."""
        first, second = self._moment(self.first), self._moment(self.second)
        copied = [
            number
            for number, page in seen.items()
            if not page.private and second.pages[number].private and number in first.pages
        ]
        if not copied:
            return None
        number = min(copied, key=lambda n: (first.pages[n].private, n))
        with open(self.path, "rb") as file:
            on_disk = os.pread(file.fileno(), _PAGE, number * _PAGE).ljust(_PAGE, b"\0")
        in_cache = self.side.cached_bytes(self.path, number).ljust(_PAGE, b"\0")
        mine = second.contents[number]
        differing = (at for at in range(0, _PAGE, _WORD) if _word(mine, at) != _word(on_disk, at))
        offset = next(differing, 0)
        return Write(
            file_page=number,
            address=second.pages[number].address,
            by=self._writer(number),
            offset=offset,
            cache_frame=self.side.cached(self.path)[number],
            frame_before=seen[number].frame,
            frame_after=second.pages[number].frame,
            first_frame_before=before.pages[number].frame,
            first_frame_after=first.pages[number].frame,
            file_word=_word(on_disk, offset),
            cache_word=_word(in_cache, offset),
            first_word_before=_word(before.contents[number], offset),
            first_word_after=_word(first.contents[number], offset),
            second_word=_word(mine, offset),
            first_unchanged=before.contents[number] == first.contents[number],
            file_unchanged=on_disk == in_cache,
            copied_by_first=[n for n, page in sorted(first.pages.items()) if page.private],
            copied_by_second=[n for n, page in sorted(second.pages.items()) if page.private],
        )

    def _writer(self, number: int) -> str:
        """Whose instruction made the second program's copy, where that is known."""
        faults = self.second.file_faults(self.path)
        copies = [f.by for f in faults if f.file_page == number and f.kind == "copy-on-write"]
        return copies[-1] if copies else ""

    def _sum(self) -> Sum:
        both = (self.first, self.second)
        pages = [page for held in both for page in held.pages(self.path)]
        snapshot = self.side.snapshot()
        totals = Sharing(snapshot).totals
        # [vsyscall] is listed by Linux, but lies outside of the address space.
        vmas = snapshot.vmas
        mapped = sum(
            pages
            for pages, mapping in zip(vmas.pages().tolist(), vmas.mapping.tolist(), strict=True)
            if vmas.mappings[mapping].name != "[vsyscall]"
        )
        frames = len({page.frame for page in pages})
        return Sum(
            virtual_pages=sum(s.pages for held in both for s in held.segments(self.path)),
            present_pages=len(pages),
            frames=frames,
            saved=len(pages) - frames,
            all_virtual_pages=mapped,
            all_present_pages=totals.resident_pages,
            all_frames=totals.frames,
            all_saved=totals.saved_pages,
        )


def _word(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + _WORD], "little")
