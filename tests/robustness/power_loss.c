/* Remembers what reached the disk: loaded into a process with LD_PRELOAD, so that a test can discard all else.
 *
 * POWER_LOSS_LOG    a file to which one line is appended for every flush that succeeded:
 *                       F <inode> <bytes>                      a file, and how long it was when the flush began
 *                       D <folder>                             a folder; then, for each of its files,
 *                       E <inode> <name>                       ... an entry, until the line
 *                       .
 * POWER_LOSS_KEPT   a folder on the same file system in which every file that is flushed, or whose folder is, gets a
 *                   second name, its inode number: what is renamed over or removed later can come back when power is
 *                   lost, and no inode number is used twice.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void append(const char *text, size_t length) {
    const char *path = getenv("POWER_LOSS_LOG");
    int log = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (log < 0 || write(log, text, length) != (ssize_t)length) {
        abort(); /* a flush that is not remembered would count as lost data */
    }
    close(log);
}

static void keep(int folder, const char *name, ino_t inode) {
    char kept[PATH_MAX];
    snprintf(kept, sizeof kept, "%s/%llu", getenv("POWER_LOSS_KEPT"), (unsigned long long)inode);
    linkat(folder, name, AT_FDCWD, kept, AT_SYMLINK_FOLLOW); /* it fails when it was kept before, or is gone already */
}

static void remember_file(int fd, const struct stat *before) {
    char line[64], name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    keep(AT_FDCWD, name, before->st_ino);
    int length = snprintf(line, sizeof line, "F %llu %lld\n", (unsigned long long)before->st_ino,
                          (long long)before->st_size);
    append(line, (size_t)length);
}

static void remember_folder(int fd) {
    char link_path[64], folder[PATH_MAX];
    snprintf(link_path, sizeof link_path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link_path, folder, sizeof folder - 1);
    DIR *entries = length < 0 ? NULL : (folder[length] = 0, opendir(folder));
    if (!entries) {
        abort();
    }
    char *text = NULL;
    size_t size = 0;
    FILE *lines = open_memstream(&text, &size);
    fprintf(lines, "D %s\n", folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        struct stat found;
        if (fstatat(dirfd(entries), entry->d_name, &found, AT_SYMLINK_NOFOLLOW) || !S_ISREG(found.st_mode)) {
            continue;
        }
        keep(dirfd(entries), entry->d_name, found.st_ino);
        fprintf(lines, "E %llu %s\n", (unsigned long long)found.st_ino, entry->d_name);
    }
    fputs(".\n", lines);
    fclose(lines);
    closedir(entries);
    append(text, size); /* one write: lines of several threads do not mix */
    free(text);
}

static int flush(int fd, const char *function) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    struct stat before; /* what is written while the flush runs may not be part of it */
    int known = !fstat(fd, &before);
    int result = real(fd);
    if (!result && known && S_ISREG(before.st_mode)) {
        remember_file(fd, &before);
    } else if (!result && known && S_ISDIR(before.st_mode)) {
        remember_folder(fd);
    }
    return result;
}

int fsync(int fd) { return flush(fd, "fsync"); }

int fdatasync(int fd) { return flush(fd, "fdatasync"); }
