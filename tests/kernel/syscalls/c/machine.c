/* What a program asks about its machine: NUMA nodes, protection keys, clocks. */
#include "oracle.h"

static void show_policy(void) {
    int mode = -1;
    unsigned long mask[32];
    memset(mask, 0xAA, sizeof mask);
    SHOW(syscall(SYS_get_mempolicy, &mode, mask, 1024, 0, 0));
    printf("mode %x nodes %lx %lx, behind %lx\n", mode, mask[0], mask[1], mask[16]);
}

TEST(memory_policy_is_the_default_one) {
    int mode = -1;
    unsigned long mask[16] = {0};
    show_policy();
    SHOW(syscall(SYS_get_mempolicy, &mode, mask, 1024, 0, 4));
    printf("%d %lx\n", mode, mask[0]);
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, &mode, 3));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, &mode, 2));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, 0x1000, 2));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, &mode, 0));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 1));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 5));
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 8));
    SHOW(syscall(SYS_get_mempolicy, &mode, mask, 0, 0, 0));
    SHOW(syscall(SYS_get_mempolicy, &mode, (void *)8, 64, 0, 0));
    SHOW(syscall(SYS_get_mempolicy, &mode, mask, 40000, 0, 0));
}

TEST(get_mempolicy_returns_what_was_set) {
    unsigned long node0 = 1, node1 = 2, both = 3;
    for (int mode = 0; mode < 8; mode++) {
        printf("%d\n", mode);
        SHOW(syscall(SYS_set_mempolicy, mode, NULL, 0));
        SHOW(syscall(SYS_set_mempolicy, mode, &node0, 64));
        show_policy();
        SHOW(syscall(SYS_set_mempolicy, mode, &node1, 64));
        SHOW(syscall(SYS_set_mempolicy, mode, &both, 64));
        show_policy();
        SHOW(syscall(SYS_set_mempolicy, mode, &both, 2));
        SHOW(syscall(SYS_set_mempolicy, mode, &both, 1));
        SHOW(syscall(SYS_set_mempolicy, mode | 1 << 15, &both, 64));
        show_policy();
        SHOW(syscall(SYS_set_mempolicy, mode | 1 << 15, NULL, 0));
        SHOW(syscall(SYS_set_mempolicy, mode | 3 << 14, &node0, 64));
        SHOW(syscall(SYS_set_mempolicy, mode | 1 << 13, &node0, 64));
        show_policy();
    }
    SHOW(syscall(SYS_set_mempolicy, 1 << 20, NULL, 0));
    SHOW(syscall(SYS_set_mempolicy, 2, (void *)8, 64));
    SHOW(syscall(SYS_set_mempolicy, 2, &both, 40000));
    SHOW(syscall(SYS_set_mempolicy, 3, &node0, 64));
    CHILD(show_policy());
    int mode = -1;
    SHOW(syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 1));
    printf("next node %d\n", mode);
}

TEST(pkey_calls_without_protection_keys) {
    void *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SHOW(syscall(SYS_pkey_alloc, 1, 0));
    SHOW(syscall(SYS_pkey_alloc, 0, 4));
    SHOW(syscall(SYS_pkey_free, 5));
    SHOW(syscall(SYS_pkey_mprotect, page, PAGE, PROT_READ | PROT_WRITE, -1));
    *(char *)page = 1;
    SHOW(syscall(SYS_pkey_mprotect, page, PAGE, PROT_READ, 5));
}

TEST(clock_resolution_is_the_same_with_and_without_a_system_call) {
    int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID,
                    CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
                    CLOCK_BOOTTIME, CLOCK_TAI};
    for (int i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        struct timespec vdso = {9, 9}, call = {9, 9};
        SHOW(clock_getres(clocks[i], &vdso));
        SHOW(syscall(SYS_clock_getres, clocks[i], &call));
        printf("%ld.%09ld %ld.%09ld\n", vdso.tv_sec, vdso.tv_nsec, call.tv_sec, call.tv_nsec);
    }
}
