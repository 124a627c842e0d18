/* System V shared memory. Ids and what other segments the system has are not printed. */
#include "oracle.h"
#include <grp.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
#define RW (PROT_READ | PROT_WRITE)
#define SHOW_OK(expr) SHOW((long)(expr) >= 0 ? 0 : -1)

static void show_segment(int id) {
    struct shmid_ds info = {0};
    SHOW(shmctl(id, IPC_STAT, &info));
    printf("size %ld mode %o attached %ld last %d creator %d owners %d %d\n", (long)info.shm_segsz,
           info.shm_perm.mode, (long)info.shm_nattch, info.shm_lpid == getpid(),
           info.shm_cpid == getpid(), info.shm_perm.uid == info.shm_perm.cuid,
           info.shm_perm.gid == info.shm_perm.cgid);
}

TEST(shm_attributes_can_be_changed) {
    struct shmid_ds info;
    int id = shmget(IPC_PRIVATE, 5000, 0600);
    show_segment(id);
    shmctl(id, IPC_STAT, &info);
    info.shm_perm.mode = 07641;
    SHOW(shmctl(id, IPC_SET, &info));
    show_segment(id);
    SHOW(shmctl(id, SHM_LOCK, NULL));
    show_segment(id);
    SHOW(shmctl(id, SHM_LOCK, NULL));
    SHOW(shmctl(id, SHM_UNLOCK, NULL));
    SHOW(shmctl(id, SHM_UNLOCK, NULL));
    show_segment(id);
    SHOW(shmctl(id, IPC_SET, (void *)-1));
    SHOW(shmctl(id, IPC_STAT, (void *)-1));
    SHOW(shmctl(id, 9999, &info));
    SHOW(shmctl(id, -1, &info));
    SHOW(shmctl(-1, IPC_STAT, &info));
    SHOW(shmctl(id, IPC_RMID, NULL));
    SHOW(shmctl(id, IPC_SET, &info));
    SHOW(shmctl(id, SHM_LOCK, NULL));
    SHOW(shmctl(id, IPC_RMID, NULL));
}

TEST(shm_of_the_whole_system) {
    struct shminfo limits;
    struct shm_info before, after;
    struct shmid_ds info;
    SHOW_OK(shmctl(0, IPC_INFO, (void *)&limits));
    printf("%lx %ld %ld %ld %lx\n", limits.shmmax, limits.shmmin, limits.shmmni, limits.shmseg,
           limits.shmall);
    SHOW_OK(shmctl(0, SHM_INFO, (void *)&before));
    int id = shmget(IPC_PRIVATE, 3 * PAGE + 1, 0600);
    char *p = shmat(id, NULL, 0);
    p[0] = p[PAGE] = 1;
    int highest = shmctl(0, SHM_INFO, (void *)&after);
    printf("%d %ld %ld\n", after.used_ids - before.used_ids, after.shm_tot - before.shm_tot,
           after.shm_rss - before.shm_rss);
    int found = 0;
    for (int command = SHM_STAT; command <= SHM_STAT_ANY; command += 2)
        for (int i = 0; i <= highest; i++)
            found += shmctl(i, command, &info) == id && info.shm_segsz == 3 * PAGE + 1;
    printf("found %d\n", found);
    SHOW(shmctl(0, IPC_INFO, (void *)-1));
    SHOW(shmctl(32000, SHM_STAT, &info));
    SHOW(shmctl(32000, SHM_STAT_ANY, &info));
    shmdt(p);
    SHOW(shmctl(id, IPC_RMID, NULL));
}

TEST(shm_permissions) {
    struct shmid_ds info;
    int modes[] = {0600, 0060, 0006, 0004, 0040, 0644, 0};
    for (int i = 0; i < sizeof modes / sizeof *modes; i++) {
        int key = 0x51A3B00 + i, id = shmget(key, PAGE, IPC_CREAT | modes[i]);
        printf("mode %o\n", modes[i]);
        shmctl(id, IPC_STAT, &info);
        for (int as = 0; as < 3; as++) {
            pid_t child = fork();
            if (!child) {
                if (as == 1) {  /* of the same group */
                    setgroups(0, NULL);
                    setuid(65534);
                }
                if (as == 2) {
                    setgroups(0, NULL);
                    setgid(65534);
                    setuid(65534);
                }
                SHOW_OK(shmget(key, PAGE, 0));
                SHOW_OK(shmget(key, PAGE, 0400));
                SHOW_OK(shmget(key, PAGE, 0006));
                SHOW_OK(shmget(key, 2 * PAGE, 0600));
                SHOW_OK(shmget(key, PAGE, IPC_CREAT | IPC_EXCL | 0600));
                SHOW_OK(shmat(id, NULL, SHM_RDONLY));
                SHOW_OK(shmat(id, NULL, 0));
                SHOW_OK(shmat(id, NULL, SHM_EXEC));
                SHOW(shmctl(id, IPC_STAT, &info));
                SHOW(shmctl(id, IPC_SET, &info));
                SHOW(shmctl(id, SHM_LOCK, NULL));
                SHOW(shmctl(id, SHM_UNLOCK, NULL));
                if (as)
                    SHOW(shmctl(id, IPC_RMID, NULL));
                _exit(0);
            }
            show_end(child);
        }
        shmctl(id, IPC_RMID, NULL);
    }
}

TEST(shm_addresses) {
    int id = shmget(IPC_PRIVATE, 3 * PAGE - 5, 0600);
    char *p = mmap(NULL, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(p, 3 * PAGE);
    SHOW(shmat(id, NULL, SHM_REMAP) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, (void *)123, SHM_RND | SHM_REMAP) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, p + 1, 0) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, p + PAGE, 0) == (void *)-1 ? -1 : 0);
    SHOW((char *)shmat(id, p + 1, SHM_RND) - p);
    SHOW(shmat(id, p, 0) == (void *)-1 ? -1 : 0);
    SHOW((char *)shmat(id, p + 4 * PAGE, SHM_REMAP) - p);
    SHOW(shmdt(p + 1));
    SHOW(shmdt(p + PAGE));
    munmap(p, PAGE);
    show_segment(id);
    SHOW(shmdt(p));
    show_segment(id);
    munmap(p + 5 * PAGE, PAGE);
    show_segment(id);
    SHOW(shmdt(p + 4 * PAGE));
    SHOW(shmdt(p + 4 * PAGE));
    SHOW(shmdt(NULL));
    show_segment(id);
    p = shmat(id, NULL, SHM_RDONLY);
    SHOW(mprotect(p, PAGE, RW));
    SHOW(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    shmctl(id, IPC_RMID, NULL);
    show_segment(id);
    SHOW_OK(shmat(id, NULL, 0));
    SHOW(shmdt(p));
}

TEST(shm_ids_are_not_used_again) {
    int first = shmget(IPC_PRIVATE, PAGE, 0600), third;
    shmctl(first, IPC_RMID, NULL);
    for (int i = 0; i < 64; i++)
        shmctl(third = shmget(IPC_PRIVATE, PAGE, 0600), IPC_RMID, NULL);
    printf("same index %d, sequence + %d\n", (first & 0x7fff) == (third & 0x7fff),
           (third >> 15) - (first >> 15));
    int second = shmget(IPC_PRIVATE, PAGE, 0600);
    struct shmid_ds info;
    printf("another id %d, another index %d\n", third != second,
           (third & 0x7fff) != (second & 0x7fff));
    shmctl(second, IPC_STAT, &info);
    printf("sequence %d\n", (second >> 15) == info.shm_perm.__seq);
    SHOW(shmctl(first, IPC_STAT, &info));
    SHOW_OK(shmat(first, NULL, 0));
    SHOW(shmctl(second, IPC_RMID, NULL));
    SHOW(shmget(0x51A3C00, 0, IPC_CREAT | 0600));
    SHOW(shmget(0x51A3C00, -1L, IPC_CREAT | 0600));
    SHOW(shmget(0x51A3C00, PAGE, 0600));
}
