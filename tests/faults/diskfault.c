/* A preloaded library that counts every call by which a process changes its disk, and lets one of them go wrong.
 *
 * Calls on files below one directory count, in all threads together: strace's own counter is one per thread, so a sweep
 * with it passes over what a second thread does. The library sleeps until diskfault_arm() is called; see
 * tests/support/crash.py, whose Life asks for it over ctypes. What "all calls" means is compared with strace by a test.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, NAME = 4 };                    /* classes of calls */
enum { NOTHING, KILL, TORN, FAIL, FAIL_THOUGH_DONE };      /* what happens at the chosen call */

static char root[PATH_MAX];
static size_t root_length;
static int classes, deed, error;
static long first, last;          /* the calls it happens at, counted from 1 */
static int clients = -1;          /* descriptor over which certificates leave: its writes count too, for KILL */
static atomic_long calls;         /* so far, of the chosen classes */
static atomic_long by_class[8];   /* so far, of all */
static atomic_int hit;

void diskfault_arm(const char *directory, int which, int what, int number, long from, long to, int descriptor)
{
    snprintf(root, sizeof root, "%s", directory);
    classes = which, deed = what, error = number, first = from, last = to, clients = descriptor;
    root_length = strlen(root);
}

long diskfault_count(int which) { return by_class[which & 7]; }
int diskfault_hit(void) { return hit; }

static int below(const char *path)
{
    return root_length && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

static int watched(int fd)
{
    char link[64], path[PATH_MAX];
    if (!root_length)
        return 0;
    if (fd == clients)
        return deed == KILL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return below(path);
}

/* Whether this call, one that is watched, is to go wrong. Does not return where the process is to die before it. */
static int chosen(int which)
{
    if (which != 0)
        by_class[which]++;
    if (which != 0 && !(classes & which))
        return 0;
    long number = ++calls;
    if (deed == NOTHING || number < first || number > last)
        return 0;
    hit = 1;
    if (deed == KILL || (deed == TORN && which != WRITE)) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    return 1;
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#define REAL(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = (result (*)(__VA_ARGS__))real(name)

/* The end of a call that was chosen: fail, after doing it or without. */
#define GO_WRONG(call) \
    do { \
        if (deed == FAIL_THOUGH_DONE) (void)!(call); \
        errno = error; \
        return -1; \
    } while (0)

#define CLASS_OF(fd, which) ((fd) == clients ? 0 : (which))

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (watched(fd) && chosen(CLASS_OF(fd, WRITE))) {
        if (deed == TORN) { (void)!next(fd, data, size / 2); die(); }
        GO_WRONG(next(fd, data, size));
    }
    return next(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (watched(fd) && chosen(WRITE)) {
        if (deed == TORN) { (void)!next(fd, data, size / 2, at); die(); }
        GO_WRONG(next(fd, data, size, at));
    }
    return next(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (watched(fd) && chosen(CLASS_OF(fd, WRITE)))
        GO_WRONG(next(fd, parts, count));
    return next(fd, parts, count);
}

#define ON_DESCRIPTOR(name, which, parameters, arguments, ...) \
    int name parameters \
    { \
        REAL(int, #name, __VA_ARGS__); \
        if (watched(fd) && chosen(which)) \
            GO_WRONG(next arguments); \
        return next arguments; \
    }

ON_DESCRIPTOR(fsync, SYNC, (int fd), (fd), int)
ON_DESCRIPTOR(fdatasync, SYNC, (int fd), (fd), int)
ON_DESCRIPTOR(ftruncate, WRITE, (int fd, off_t size), (fd, size), int, off_t)
ON_DESCRIPTOR(ftruncate64, WRITE, (int fd, off64_t size), (fd, size), int, off64_t)
ON_DESCRIPTOR(fallocate, WRITE, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), int, int, off_t, off_t)

/* Gives the error back instead of setting errno; within glibc it calls the kernel itself. */
static int allocate(const char *name, int fd, off64_t at, off64_t size)
{
    int (*next)(int, off64_t, off64_t) = (int (*)(int, off64_t, off64_t))real(name);
    if (watched(fd) && chosen(WRITE)) {
        if (deed == FAIL_THOUGH_DONE)
            (void)next(fd, at, size);
        return error;
    }
    return next(fd, at, size);
}

int posix_fallocate(int fd, off_t at, off_t size) { return allocate("posix_fallocate", fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return allocate("posix_fallocate64", fd, at, size); }

#define ON_PATH(name, path, parameters, arguments, ...) \
    int name parameters \
    { \
        REAL(int, #name, __VA_ARGS__); \
        if (below(path) && chosen(NAME)) \
            GO_WRONG(next arguments); \
        return next arguments; \
    }

ON_PATH(rename, to, (const char *from, const char *to), (from, to), const char *, const char *)
ON_PATH(renameat, to, (int a, const char *from, int b, const char *to), (a, from, b, to), int, const char *, int, const char *)
ON_PATH(renameat2, to, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags),
        int, const char *, int, const char *, unsigned)
ON_PATH(link, to, (const char *from, const char *to), (from, to), const char *, const char *)
ON_PATH(linkat, to, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags),
        int, const char *, int, const char *, int)
ON_PATH(unlink, path, (const char *path), (path), const char *)
ON_PATH(unlinkat, path, (int fd, const char *path, int flags), (fd, path, flags), int, const char *, int)
