"""The model kernel's files: the host's tree read-only, and everything a guest changes in RAM.

`vfs.Vfs` is the way in; the modules below it, from the ground up:

- `stat`, `context`: what `stat` reports, and for whom.
- `inode`, `path`, `file`: the three objects of Linux's VFS. An inode is a file, a `Path` is
  a name of it (Linux's dentry), an `OpenFile` is an open file description.
- `mapping`: the content of a regular file, as the page cache sees it.
- `regular`, `directory`, `pipe`, `devices`, `stream`, `socket`, `eventfd`, `epoll`,
  `procfs`: one kind of inode each, with its open file.
- `hostfs`: inodes of host files, found by device and inode number.
- `namei`, `tree`, `attributes`, `vfs`: the operations on paths.
- `export`: saving what guests changed.
- `fdtable`, `locks`: what belongs to a process, and file locks.
"""
