"""What the demonstration found: plain records, the same for the model and the live kernel.

They are what `samepage demo -f json` prints. Numbers of pages count 4 KiB pages; a file page
is an offset in the file divided by 4096; addresses are in bytes.
"""

from dataclasses import dataclass, field

from samepage.lab.side import Fault, Page, Segment


@dataclass(frozen=True, slots=True)
class Mapped:
    """Step 1: all segments have just been mapped. `cached_pages` of the file are in the page
    cache at this moment, `cached_before` were before the program was started."""

    pid: int
    base: int
    segments: list[Segment]
    virtual_pages: int
    present_pages: int
    cached_pages: int
    cached_before: int


@dataclass(frozen=True, slots=True)
class Call:
    """Step 2: the program's first call into the library has just fetched its instruction.

    `faults` came between step 1 and this; `fetch_pages` is how many pages the fetch itself
    made present (0: an earlier fault had mapped the function's page along). Of `present`
    pages, `cached_pages` of the file are now in the page cache; `minor` and `major` are the
    faults of the whole process since step 1.
    """

    function: str
    address: int
    file_page: int
    frame: int
    fetch_pages: int
    present: list[Page]
    faults: list[Fault]
    cached_pages: int
    minor: int
    major: int


@dataclass(frozen=True, slots=True)
class SharedPage:
    """A page of the file that both programs map: where, and in which frame. `cache_frame` is
    the frame that the page cache has under (device, inode, file page)."""

    file_page: int
    first_address: int
    second_address: int
    first_frame: int
    second_frame: int
    cache_frame: int


@dataclass(frozen=True, slots=True)
class Second:
    """Step 3: both programs are at their ends. `shared` are the pages of the file that both
    map uncopied; `only_first` and `only_second` those that one of them maps; `new_frames` is
    how many frames the second program added to the page cache for this file."""

    pid: int
    base: int
    present_at_map: int
    shared: list[SharedPage]
    only_first: int
    only_second: int
    new_frames: int
    minor: int
    major: int


@dataclass(frozen=True, slots=True)
class Write:
    """Step 4: the second program wrote to a page of the library's private data.

    `by` is who wrote, where it is known. The words are the first eight bytes that differ, at
    `offset` in the page: as they are in the file on disk, in the page cache, and in the two
    programs' memory. `first_unchanged` and `file_unchanged` compare the whole page: of the
    first program before and after, and of the page cache with the file on disk.
    """

    file_page: int
    address: int
    by: str
    offset: int
    cache_frame: int
    frame_before: int
    frame_after: int
    first_frame_before: int
    first_frame_after: int
    file_word: int
    cache_word: int
    first_word_before: int
    first_word_after: int
    second_word: int
    first_unchanged: bool
    file_unchanged: bool
    copied_by_first: list[int]
    copied_by_second: list[int]


@dataclass(frozen=True, slots=True)
class Sum:
    """Step 5, of the library and (`all_`) of both programs as a whole: pages and different
    frames. Invariant: what is saved are the present pages less the frames."""

    virtual_pages: int
    present_pages: int
    frames: int
    saved: int
    all_virtual_pages: int
    all_present_pages: int
    all_frames: int
    all_saved: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The five steps on one side. `write` is None if no page of private data was seen to be
    copied."""

    mapped: Mapped
    call: Call
    second: Second
    write: Write | None
    sum: Sum


@dataclass(frozen=True, slots=True)
class Library:
    """The file that both use: the kernel knows it by device and inode."""

    path: str
    device: int
    inode: int
    pages: int


@dataclass(slots=True)
class ActReport:
    """One pair of programs. `about` is a note for the reader, "" if none is needed.
    `live` is None where `no_live` has the reason."""

    title: str
    about: str
    library: Library
    first: list[str]
    second: list[str]
    cold: bool
    model: Evidence
    live: Evidence | None = None
    no_live: str = ""


@dataclass(slots=True)
class Story:
    """The whole demonstration. `skipped` names what was left out, and why."""

    acts: list[ActReport] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
