/* `componentize-py` runs Python once and keeps a snapshot of its memory, in which the seed of its
 * hashes and the time would be. Loaded in front of the C library (LD_PRELOAD) by build-python, this
 * makes chance a fixed sequence and time stand still, so that components of the same source order
 * their sets alike: they give the same verdicts for the same fuel. They are not yet the same bytes:
 * numbers of inodes, which come by other ways, stay behind in some dozens of bytes of padding that
 * nobody reads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

enum { SECONDS = 1700000000 };

/* Each call gives the same bytes: several threads ask, in any order. */
ssize_t getrandom(void *into, size_t bytes, unsigned flags) {
    (void)flags;
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < bytes; i++) {
        /* xorshift, Marsaglia 2003 */
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        ((unsigned char *)into)[i] = (unsigned char)(state >> 32);
    }
    return (ssize_t)bytes;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    *now = (struct timespec){.tv_sec = clock == CLOCK_REALTIME ? SECONDS : 1000};
    return 0;
}

int statx(int dir, const char *path, int flags, unsigned mask, struct statx *found) {
    int (*real)(int, const char *, int, unsigned, struct statx *) = dlsym(RTLD_NEXT, "statx");
    int result = real(dir, path, flags, mask, found);
    /* Python looks at kinds and sizes. */
    struct statx_timestamp time = {.tv_sec = SECONDS};
    if (result == 0)
        found->stx_ino = 1,
        found->stx_atime = found->stx_mtime = found->stx_ctime = found->stx_btime = time;
    return result;
}
