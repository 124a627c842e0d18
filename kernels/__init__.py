"""Other kernels and processors, in virtual machines: what samepage does there, and how to see it.

What samepage reads and models differs from kernel to kernel, so a proof on one is one machine's.
Here Debian's own kernels are booted in QEMU, unpacked from their packages (nothing is installed),
on a disk made from the machine's own programs, and the project's commands and tests run there.

    packages    download and unpack packages, also of other suites and processors
    modules     the kernel modules that a boot needs, in the order to load them
    disks       the initramfs, the root, and the disk that carries commands in and results out
    boot        QEMU: run one command on one kernel
    __main__    the command line; `make verify-kernels` and `make live-aarch64` use it

QEMU emulates the processor (TCG), so this works without /dev/kvm and for arm64, and takes its
time: a kernel is up after 5 to 20 seconds, Python programs run ten times slower than outside.
"""
