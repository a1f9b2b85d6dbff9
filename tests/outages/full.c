/* A full disk without one that is full: bytes written below the folder FULL_BELOW are refused with ENOSPC for as long as the file
 * FULL_WHILE stands. Loaded by LD_PRELOAD; everything else is passed on as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

/* The next in line after this library. */
#define PASSED_ON(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_full(int fd)
{
    const char *folder = getenv("FULL_BELOW"), *standing = getenv("FULL_WHILE");
    if (!folder || !standing || access(standing, F_OK) != 0)
        return 0;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = '\0';
    size_t below = strlen(folder);
    if (strncmp(path, folder, below) != 0 || path[below] != '/')
        return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    return count > 0 && is_full(fd) ? -1 : PASSED_ON(write)(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return is_full(fd) ? -1 : PASSED_ON(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    return count > 0 && is_full(fd) ? -1 : PASSED_ON(pwrite64)(fd, bytes, count, at);
}

ssize_t copy_file_range(int from, off64_t *read_at, int to, off64_t *write_at, size_t count, unsigned flags)
{
    return is_full(to) ? -1 : PASSED_ON(copy_file_range)(from, read_at, to, write_at, count, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t count)
{
    return is_full(to) ? -1 : PASSED_ON(sendfile64)(to, from, at, count);
}
