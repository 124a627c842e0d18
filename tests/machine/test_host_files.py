"""Host files that change or vanish while a guest uses them."""

from pathlib import Path

from samepage import Machine

SCRIPT = """
import mmap, os
file = open({path!r}, "rb")
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
os.write(1, b"mapped")
print(pages[5000])
"""


def test_a_page_that_cannot_be_read_any_more_is_a_bus_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    machine = Machine("512M")
    guest = machine.spawn(["/usr/bin/python3", "-c", SCRIPT.format(path=str(path))])
    stdout = guest.process.files.get(1)
    stdout.inode.sink = lambda _data: path.unlink(missing_ok=True)
    assert machine.run(guest) == 128 + 7
