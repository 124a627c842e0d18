"""Container images: from an archive or a directory to layers, and to the tree that they make.

What comes in is an OCI image layout, an archive of `docker save`, a layer directory of docker's
or Podman's overlay storage, or an unpacked root; nothing in it is trusted. What leaves is an
`Image`: its configuration, its layers with one entry per name, and (`tree`) the files that a
container of it sees.

- `source` recognises the form, `oci`, `docker` and `storage` read one each.
- `blobs` opens parts of a directory or an archive, `compression` reads through gzip and zstd.
- `tar_layer` and `directory_layer` read a layer; `store` keeps file contents meanwhile.
- `tree` stacks layers as overlayfs does.

Identity: containers share the page cache of a file if they have the same inode. Docker, Podman
and containerd unpack a layer once for each *chain* of layers below it, so two images share the
files of a layer if they have the same ChainID there, not merely the same layer.
Specification: https://github.com/opencontainers/image-spec (layer.md, config.md, manifest.md).
"""
