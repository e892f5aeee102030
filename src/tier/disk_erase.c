/* disk_erase.c - the end of a node's folder. What is not kvd's own stays, and the folder with it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "tier/disk_inner.h"

/* In the order in which they go: without the node file, a folder with segments or logs in it could not be opened again. */
enum own { OWN_SEGMENT, OWN_LOG, OWN_NODE, OWN_LOCK, OWN_KINDS, FOREIGN = OWN_KINDS };

struct erasing {
    const struct disk *disk;
    enum own kind; /* that goes now; FOREIGN: what is left is counted */
    uint64_t removed, foreign;
    int err;
};

static enum own kind_of(const char *name, bool regular)
{
    uint64_t sequence;
    if (regular && disk_name_parse(name, "", ".seg", &sequence))
        return OWN_SEGMENT;
    if (regular && (disk_name_parse(name, "removes-", ".log", &sequence) || disk_name_is_temp(name)))
        return OWN_LOG;
    if (regular && (strcmp(name, "node") == 0 || strcmp(name, OBJECTS_MARK) == 0))
        return OWN_NODE;
    return regular && strcmp(name, "lock") == 0 ? OWN_LOCK : FOREIGN;
}

static bool erase_one(void *arg, const char *name, bool regular, uint64_t size)
{
    enum { PATH_BYTES = 4096 };
    struct erasing *erasing = arg;
    char path[PATH_BYTES];
    (void)size;
    if (kind_of(name, regular) != erasing->kind)
        return true;
    if (erasing->kind == FOREIGN) {
        erasing->foreign++;
        log_warn(erasing->disk->log, "foreign_file", "file=\"%s/%s\" what=\"left alone, and so the folder stays\"", erasing->disk->folder,
                 name);
        return true;
    }
    (void)snprintf(path, sizeof path, "%s/%s", erasing->disk->folder, name);
    erasing->err = fs_unlink(erasing->disk->loop, path);
    erasing->removed += !erasing->err;
    return !erasing->err;
}

/* Each kind is gone for good before the next one goes. */
static int erase_kind(struct erasing *erasing, enum own kind)
{
    const struct disk *disk = erasing->disk;
    erasing->kind = kind;
    int err;
    uint64_t before;
    do { /* a listing may miss some of a folder that changes meanwhile */
        before = erasing->removed;
        err = fs_list(disk->loop, disk->folder, erase_one, erasing);
        if (!err)
            err = erasing->err;
    } while (!err && erasing->removed > before);
    return err || kind == FOREIGN ? err : fs_sync_dir(disk->loop, disk->folder);
}

/* Nothing of another file system that has come to lie there. */
static int still_ours(const struct disk *disk)
{
    struct fs_dir_info info;
    int err = fs_dir_info(disk->loop, disk->folder, &info);
    return err || info.device == disk->device ? err : -ENODEV;
}

static void folders_remove(const struct disk *disk)
{
    char cluster[4096];
    (void)fs_remove_dir(disk->loop, disk->folder);
    (void)snprintf(cluster, sizeof cluster, "%s", disk->folder);
    char *slash = strrchr(cluster, '/');
    if (!slash)
        return;
    *slash = '\0';
    (void)fs_sync_dir(disk->loop, cluster);
    if (disk->objects)
        objects_folders_remove(disk->objects);
    (void)fs_remove_dir(disk->loop, cluster); /* other nodes may have theirs there */
}

void disk_erase_work(struct disk *disk)
{
    struct erasing erasing = {.disk = disk};
    int err = still_ours(disk);
    for (enum own kind = OWN_SEGMENT; err == 0 && kind <= FOREIGN; kind++)
        err = erase_kind(&erasing, kind);
    if (!err && erasing.foreign == 0)
        folders_remove(disk);
    disk->erase_err = err;
    if (err)
        log_error(disk->log, "erase_failed", "dir=\"%s\" files=%llu error=\"%s\"", disk->folder, (unsigned long long)erasing.removed,
                  error_text(err));
    else
        log_info(disk->log, "erased", "dir=\"%s\" files=%llu foreign=%llu", disk->folder, (unsigned long long)erasing.removed,
                 (unsigned long long)erasing.foreign);
}

void disk_erase(struct disk *disk)
{
    disk->erase = true;
    disk->erase_err = KVD_EOFF; /* until it was tried */
}

int disk_erase_err(const struct disk *disk)
{
    return disk->erase_err;
}
