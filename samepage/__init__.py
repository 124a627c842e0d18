"""samepage shows which physical pages processes share when they use the same shared libraries."""

__version__ = "0.1.0"
