"""How much of an image is believed.

An archive can claim anything: a petabyte of zeros in a kilobyte, millions of names, a header of
gigabytes. Each bound here is far above what images have and far below what hurts; beyond it the
image is refused with one line. Disk space is bounded by what is free.
"""

from samepage.errors import SamepageError

MOST_ENTRIES = 1_000_000
"""Names in all layers of an image: some 400 MB of memory."""
MOST_DOCUMENT = 16 << 20
"""Bytes of a manifest, index or configuration (containerd and skopeo stop at 4 or 8 MiB)."""
MOST_HEADER = 1 << 20
"""Bytes of one extended header of a tar archive: long names and attributes."""
MOST_EXPANSION = 1 << 10
"""Bytes that come out of one compressed byte. Deflate cannot give more than 1,032; zstd can."""
FREE_EXPANSION = 1 << 30
"""Bytes that may come out of any layer, however small it is."""
MOST_BYTES = 256 << 30
"""Bytes of all files in a layer."""
MOST_PATH = 4096
"""PATH_MAX: longer names cannot be opened."""
MOST_LAYERS = 512
"""Overlayfs stacks 500 lower layers (OVL_MAX_STACK), docker 127."""


class ImageError(SamepageError):
    """An image that cannot be read: damaged, hostile, or of a form that is not known."""
