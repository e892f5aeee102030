#include "test/fuse/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/list.h"
#include "test/fuse/rules.h"

enum kind { KIND_WRITE, KIND_LENGTH, KIND_NAMED, KIND_UNLINKED, KIND_RENAMED };
enum { PIECE_BYTES = 4096, SPARE_NAME_BYTES = 48 };

struct record {
    struct list link;
    enum kind kind;
    struct inode *inode;
    struct inode *dir, *to_dir; /* of names; to_dir of a rename alone */
    char *name, *to_name;
    unsigned spare; /* number in the spare folder of what this took away; 0: nothing */
    struct inode *replaced;
    off_t offset, old_length, new_length;
    size_t len;
    uint8_t *old;   /* the bytes that were there before, as far as the old length went; NULL: zeros */
    uint8_t *fresh; /* the bytes that are to be there, once it is taken back */
    bool doomed;    /* an fsync of it failed */
    bool durable;   /* stays only because something older of the same file is in doubt */
    bool undone;
};

/* A file that was unlinked and whose bytes are to go later. */
struct gone {
    struct list link;
    struct inode *inode;
    unsigned spare;
    uint64_t due_ms;
};

struct journal {
    pthread_mutex_t lock;
    struct inodes *inodes;
    int spare_fd;
    bool off;
    unsigned last_spare;
    size_t length;
    struct list records;
    struct list gone;
    enum gone_mode gone_mode;
    unsigned gone_delay_ms;
    unsigned publish_ms;
    struct list unpublished;
};

/* A file whose length others do not know. */
struct unpublished {
    struct list link;
    struct inode *inode;
};

struct journal *journal_new(struct inodes *inodes, int spare_fd, bool off)
{
    struct journal *journal = calloc(1, sizeof *journal);
    if (!journal)
        return NULL;
    pthread_mutex_init(&journal->lock, NULL);
    journal->inodes = inodes;
    journal->spare_fd = spare_fd;
    journal->off = off;
    list_init(&journal->records);
    list_init(&journal->gone);
    list_init(&journal->unpublished);
    journal->publish_ms = 30000;
    return journal;
}

void journal_lock(struct journal *journal)
{
    pthread_mutex_lock(&journal->lock);
}

void journal_unlock(struct journal *journal)
{
    pthread_mutex_unlock(&journal->lock);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the spare folder ---- */

static void spare_name(char out[SPARE_NAME_BYTES], unsigned number)
{
    (void)snprintf(out, SPARE_NAME_BYTES, "%d-%u", (int)getpid(), number);
}

static int spare_take(struct journal *journal, int dir_fd, const char *name, unsigned *out)
{
    char spare[SPARE_NAME_BYTES];
    spare_name(spare, journal->last_spare + 1);
    if (renameat(dir_fd, name, journal->spare_fd, spare) < 0)
        return -errno;
    *out = ++journal->last_spare;
    return 0;
}

static int spare_link(struct journal *journal, int dir_fd, const char *name, unsigned *out)
{
    char spare[SPARE_NAME_BYTES];
    spare_name(spare, journal->last_spare + 1);
    if (linkat(dir_fd, name, journal->spare_fd, spare, 0) < 0)
        return -errno;
    *out = ++journal->last_spare;
    return 0;
}

static bool spare_give_back(struct journal *journal, unsigned number, int dir_fd, const char *name)
{
    char spare[SPARE_NAME_BYTES];
    spare_name(spare, number);
    return renameat2(journal->spare_fd, spare, dir_fd, name, RENAME_NOREPLACE) == 0;
}

static struct gone *gone_find(struct journal *journal, unsigned spare)
{
    for (struct list *at = journal->gone.next; at != &journal->gone; at = at->next) {
        struct gone *gone = CONTAINER_OF(at, struct gone, link);
        if (gone->spare == spare)
            return gone;
    }
    return NULL;
}

/* What was taken away cannot come back: its last link goes, unless late deletion keeps it. */
static void spare_drop(struct journal *journal, unsigned number, struct inode *inode)
{
    char spare[SPARE_NAME_BYTES];
    if (gone_find(journal, number))
        return;
    spare_name(spare, number);
    (void)unlinkat(journal->spare_fd, spare, 0);
    inode->trashed--;
}

void journal_fini(struct journal *journal)
{
    while (!list_empty(&journal->unpublished))
        journal_publish(journal, CONTAINER_OF(journal->unpublished.next, struct unpublished, link)->inode);
    char own[SPARE_NAME_BYTES];
    int own_len = snprintf(own, sizeof own, "%d-", (int)getpid());
    DIR *dir = fdopendir(dup(journal->spare_fd));
    if (!dir)
        return;
    rewinddir(dir);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
        if (strncmp(entry->d_name, own, (size_t)own_len) == 0)
            (void)unlinkat(journal->spare_fd, entry->d_name, entry->d_type == DT_DIR ? AT_REMOVEDIR : 0);
    closedir(dir);
}

/* ---- records ---- */

static struct record *record_add(struct journal *journal, enum kind kind, struct inode *inode)
{
    struct record *record = journal->off ? NULL : calloc(1, sizeof *record);
    if (!record)
        return NULL;
    record->kind = kind;
    record->inode = inode;
    inode_ref(journal->inodes, inode);
    list_push_back(&journal->records, &record->link);
    journal->length++;
    return record;
}

static void record_set_names(struct journal *journal, struct record *record, struct inode *dir, const char *name)
{
    record->dir = dir;
    record->name = strdup(name);
    inode_ref(journal->inodes, dir);
}

/* It is durable, or was taken back for good. */
static void record_drop(struct journal *journal, struct record *record)
{
    if (record->spare && !record->undone)
        spare_drop(journal, record->spare, record->kind == KIND_RENAMED ? record->replaced : record->inode);
    list_remove(&record->link);
    journal->length--;
    inode_unref(journal->inodes, record->inode, 1);
    inode_unref(journal->inodes, record->dir, 1);
    inode_unref(journal->inodes, record->to_dir, 1);
    inode_unref(journal->inodes, record->replaced, 1);
    free(record->name);
    free(record->to_name);
    free(record->old);
    free(record->fresh);
    free(record);
}

static bool is_name(const struct record *record)
{
    return record->kind >= KIND_NAMED;
}

size_t journal_length(const struct journal *journal)
{
    return journal->length;
}

/* ---- changes of bytes ---- */

static bool all_zero(const uint8_t *bytes, size_t len)
{
    return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

/* What is in the file from `offset` on, or NULL for zeros. Most of what is written over was a hole. */
static uint8_t *bytes_of(int fd, off_t offset, size_t len)
{
    off_t data = lseek(fd, offset, SEEK_DATA);
    if (len == 0 || (data < 0 && errno == ENXIO) || data >= offset + (off_t)len)
        return NULL;
    uint8_t *bytes = calloc(1, len);
    if (bytes && pread(fd, bytes, len, offset) >= 0 && !all_zero(bytes, len))
        return bytes;
    free(bytes);
    return NULL;
}

static off_t length_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ? 0 : st.st_size;
}

/* The backing must not fail, or what tests conclude is worth nothing. */
static void set_length(int fd, off_t length)
{
    if (ftruncate(fd, length) < 0) {
        perror("faultfs: backing");
        abort();
    }
}

static size_t clip(off_t offset, size_t len, off_t end)
{
    if (offset >= end)
        return 0;
    return end - offset < (off_t)len ? (size_t)(end - offset) : len;
}

/* ---- lengths that other mounts see ---- */

static void length_name(char out[SPARE_NAME_BYTES], const struct inode *inode)
{
    (void)snprintf(out, SPARE_NAME_BYTES, "length-%llu", (unsigned long long)inode->ino);
}

static void unpublish(struct journal *journal, struct inode *inode, off_t length)
{
    char name[SPARE_NAME_BYTES], text[64];
    if (inode->unpublished)
        return;
    struct unpublished *item = calloc(1, sizeof *item);
    length_name(name, inode);
    int fd = openat(journal->spare_fd, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (!item || fd < 0) {
        perror("faultfs: spare folder");
        abort();
    }
    int text_len = snprintf(text, sizeof text, "%d %lld", (int)getpid(), (long long)length);
    (void)!write(fd, text, (size_t)text_len);
    close(fd);
    item->inode = inode;
    inode_ref(journal->inodes, inode);
    list_push_back(&journal->unpublished, &item->link);
    inode->unpublished = true;
    inode->publish_ms = now_ms() + journal->publish_ms;
}

void journal_publish(struct journal *journal, struct inode *inode)
{
    char name[SPARE_NAME_BYTES];
    if (!inode->unpublished)
        return;
    inode->unpublished = false;
    length_name(name, inode);
    (void)unlinkat(journal->spare_fd, name, 0);
    struct list *next;
    for (struct list *at = journal->unpublished.next; at != &journal->unpublished; at = next) {
        struct unpublished *item = CONTAINER_OF(at, struct unpublished, link);
        next = at->next;
        if (item->inode != inode)
            continue;
        list_remove(&item->link);
        free(item);
        inode_unref(journal->inodes, inode, 1);
        return;
    }
}

void journal_set_publish(struct journal *journal, unsigned publish_ms)
{
    journal->publish_ms = publish_ms;
}

void journal_publish_due(struct journal *journal)
{
    uint64_t now = now_ms();
    while (!list_empty(&journal->unpublished)) {
        struct inode *inode = CONTAINER_OF(journal->unpublished.next, struct unpublished, link)->inode;
        if (inode->publish_ms > now)
            return;
        journal_publish(journal, inode);
    }
}

/* What a mount that has died left unpublished counts as published. */
off_t journal_known_length(const struct journal *journal, const struct inode *inode, off_t length)
{
    char name[SPARE_NAME_BYTES], text[64] = "";
    long long known;
    int pid;
    length_name(name, inode);
    int fd = openat(journal->spare_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return length;
    bool whole = read(fd, text, sizeof text - 1) > 0 && sscanf(text, "%d %lld", &pid, &known) == 2;
    close(fd);
    if (!whole || pid == (int)getpid() || (kill(pid, 0) < 0 && errno == ESRCH))
        return length;
    return known < length ? known : length;
}

/* ---- changes of bytes, made ---- */

ssize_t journal_write(struct journal *journal, struct inode *inode, int fd, const void *buf, size_t len, off_t offset)
{
    off_t old_length = length_of(fd);
    uint8_t *old = journal->off ? NULL : bytes_of(fd, offset, clip(offset, len, old_length));
    if (offset + (off_t)len > old_length)
        unpublish(journal, inode, old_length);
    ssize_t done = pwrite(fd, buf, len, offset);
    int err = errno;
    struct record *record = done > 0 ? record_add(journal, KIND_WRITE, inode) : NULL;
    if (!record) {
        free(old);
        return done < 0 ? -err : done;
    }
    record->offset = offset;
    record->len = (size_t)done;
    record->old_length = old_length;
    record->old = old;
    return done;
}

int journal_truncate(struct journal *journal, struct inode *inode, int fd, off_t len)
{
    off_t old_length = length_of(fd);
    uint8_t *old = len < old_length && !journal->off ? bytes_of(fd, len, (size_t)(old_length - len)) : NULL;
    int err = ftruncate(fd, len) < 0 ? -errno : 0;
    if (!err)
        journal_publish(journal, inode);
    struct record *record = err ? NULL : record_add(journal, KIND_LENGTH, inode);
    if (!record) {
        free(old);
        return err;
    }
    record->old_length = old_length;
    record->new_length = len;
    record->old = old;
    return 0;
}

static void write_all(int fd, const uint8_t *bytes, size_t len, off_t offset)
{
    while (len > 0) {
        ssize_t done = pwrite(fd, bytes, len, offset);
        if (done <= 0)
            return;
        bytes += done;
        len -= (size_t)done;
        offset += done;
    }
}

/* Zeros: `bytes` NULL. */
static void put_bytes(int fd, const uint8_t *bytes, size_t len, off_t offset)
{
    if (len > 0 && bytes)
        write_all(fd, bytes, len, offset);
    else if (len > 0)
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)len);
}

static void write_undo(struct record *record)
{
    int fd = inode_open(record->inode, O_RDWR);
    if (fd < 0)
        return;
    record->fresh = bytes_of(fd, record->offset, record->len);
    put_bytes(fd, record->old, clip(record->offset, record->len, record->old_length), record->offset);
    if (length_of(fd) > record->old_length)
        set_length(fd, record->old_length);
    record->undone = true;
    close(fd);
}

static void piece_redo(int fd, const struct record *record, size_t at, size_t len)
{
    static const uint8_t zeros[PIECE_BYTES];
    write_all(fd, record->fresh ? record->fresh + at : zeros, len, record->offset + (off_t)at);
}

/* A quarter is wholly there, a quarter not at all, the others in part. Returns whether all of it was done again. */
static bool write_redo(const struct record *record, const struct power_cut *cut, uint64_t *dice)
{
    double lot = (double)(dice_roll(dice) >> 11) * 0x1p-53;
    double p = record->durable || lot < 0.25 ? 1 : lot < 0.5 ? 0 : cut->keep;
    bool whole = true;
    if (!record->durable && (cut->keep <= 0 || cut->keep >= 1))
        p = cut->keep;
    int fd = inode_open(record->inode, O_RDWR);
    if (fd < 0)
        return false;
    for (size_t at = 0; at < record->len;) {
        size_t len = PIECE_BYTES - (size_t)((record->offset + (off_t)at) % PIECE_BYTES);
        len = len < record->len - at ? len : record->len - at;
        if (dice_says(dice, p))
            piece_redo(fd, record, at, len);
        else
            whole = false;
        at += len;
    }
    close(fd);
    return whole;
}

static void length_set(const struct record *record, off_t length)
{
    int fd = inode_open(record->inode, O_RDWR);
    if (fd < 0)
        return;
    set_length(fd, length);
    if (length == record->old_length && record->new_length < record->old_length)
        put_bytes(fd, record->old, record->old ? (size_t)(record->old_length - record->new_length) : 0, record->new_length);
    close(fd);
}

/* ---- changes of names ---- */

void journal_named(struct journal *journal, struct inode *dir, const char *name, struct inode *inode)
{
    struct record *record = record_add(journal, KIND_NAMED, inode);
    if (record)
        record_set_names(journal, record, dir, name);
}

static void gone_add(struct journal *journal, unsigned spare, struct inode *inode)
{
    struct gone *gone = calloc(1, sizeof *gone);
    if (!gone)
        return;
    *gone = (struct gone){.inode = inode, .spare = spare, .due_ms = now_ms() + journal->gone_delay_ms};
    inode_ref(journal->inodes, inode);
    list_push_back(&journal->gone, &gone->link);
}

static void gone_drop(struct journal *journal, struct gone *gone)
{
    list_remove(&gone->link);
    inode_unref(journal->inodes, gone->inode, 1);
    free(gone);
}

int journal_unlink(struct journal *journal, struct inode *dir, const char *name, struct inode *inode)
{
    unsigned spare = 0;
    if (journal->off && journal->gone_mode == GONE_KEEP)
        return unlinkat(dir->fd, name, 0) < 0 ? -errno : 0;
    int err = spare_take(journal, dir->fd, name, &spare);
    if (err)
        return err;
    inode->trashed++;
    struct stat st;
    if (journal->gone_mode != GONE_KEEP && fstat(inode->fd, &st) == 0 && st.st_nlink == inode->trashed)
        gone_add(journal, spare, inode);
    struct record *record = record_add(journal, KIND_UNLINKED, inode);
    if (record) {
        record_set_names(journal, record, dir, name);
        record->spare = spare;
    } else {
        spare_drop(journal, spare, inode);
    }
    return 0;
}

int journal_rename(struct journal *journal, struct inode *dir, const char *name, struct inode *to_dir, const char *to_name,
                   struct inode *inode, struct inode *replaced)
{
    unsigned spare = 0;
    if (replaced && replaced != inode && !journal->off && spare_link(journal, to_dir->fd, to_name, &spare) == 0)
        replaced->trashed++;
    if (renameat(dir->fd, name, to_dir->fd, to_name) < 0) {
        int err = -errno;
        if (spare)
            spare_drop(journal, spare, replaced);
        return err;
    }
    struct record *record = record_add(journal, KIND_RENAMED, inode);
    if (!record) {
        if (spare)
            spare_drop(journal, spare, replaced);
        return 0;
    }
    record_set_names(journal, record, dir, name);
    record->to_dir = to_dir;
    record->to_name = strdup(to_name);
    inode_ref(journal->inodes, to_dir);
    if (spare) {
        record->spare = spare;
        record->replaced = replaced;
        inode_ref(journal->inodes, replaced);
    }
    return 0;
}

static bool is_at(const struct inode *inode, const struct inode *dir, const char *name)
{
    struct stat st;
    return fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == inode->dev && st.st_ino == inode->ino;
}

static void rename_undo(struct journal *journal, struct record *record)
{
    if (!is_at(record->inode, record->to_dir, record->to_name))
        return;
    record->undone = renameat2(record->to_dir->fd, record->to_name, record->dir->fd, record->name, RENAME_NOREPLACE) == 0;
    if (record->undone && record->spare && spare_give_back(journal, record->spare, record->to_dir->fd, record->to_name))
        record->replaced->trashed--;
}

/* Names that were taken back wait in the spare folder, so that the file is there to be named again. */
static void name_undo(struct journal *journal, struct record *record)
{
    if (record->kind == KIND_RENAMED) {
        rename_undo(journal, record);
    } else if (record->kind == KIND_UNLINKED) {
        record->undone = spare_give_back(journal, record->spare, record->dir->fd, record->name);
        record->inode->trashed -= record->undone;
    } else if (is_at(record->inode, record->dir, record->name)) {
        record->undone = spare_take(journal, record->dir->fd, record->name, &record->spare) == 0;
    }
}

static bool unlink_redo(struct journal *journal, struct record *record)
{
    struct gone *gone = gone_find(journal, record->spare);
    if (spare_take(journal, record->dir->fd, record->name, &record->spare) < 0)
        return false;
    record->inode->trashed++;
    if (gone)
        gone->spare = record->spare;
    return true;
}

static bool rename_redo(struct journal *journal, struct record *record)
{
    if (record->replaced && spare_link(journal, record->to_dir->fd, record->to_name, &record->spare) == 0)
        record->replaced->trashed++;
    return renameat(record->dir->fd, record->name, record->to_dir->fd, record->to_name) == 0;
}

static bool name_redo(struct journal *journal, struct record *record)
{
    bool done;
    if (record->kind == KIND_NAMED) {
        done = spare_give_back(journal, record->spare, record->dir->fd, record->name);
        if (done)
            record->spare = 0;
    } else if (!is_at(record->inode, record->dir, record->name)) {
        done = false;
    } else {
        done = record->kind == KIND_UNLINKED ? unlink_redo(journal, record) : rename_redo(journal, record);
    }
    record->undone = !done;
    return done;
}

/* ---- what is durable ---- */

/* Does it change the length, or lie beyond the one that was synced last? `durable_length` is negative until one is found that does. */
static bool needs_length(const struct record *record, off_t *durable_length)
{
    off_t end = record->kind == KIND_LENGTH ? record->new_length : record->offset + (off_t)record->len;
    bool changes = record->kind == KIND_LENGTH ? end != record->old_length : end > record->old_length;
    if (changes && *durable_length < 0)
        *durable_length = record->old_length;
    return changes || (*durable_length >= 0 && end > *durable_length);
}

void journal_sync(struct journal *journal, struct inode *inode, bool data_only)
{
    bool doubt = false;
    off_t durable_length = -1;
    struct list *next;
    for (struct list *at = journal->records.next; at != &journal->records; at = next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        next = at->next;
        if (record->inode != inode || is_name(record))
            continue;
        bool left = record->doomed || (data_only && !record->durable && needs_length(record, &durable_length));
        doubt |= left;
        if (!doubt)
            record_drop(journal, record);
        else if (!left)
            record->durable = true;
    }
}

void journal_sync_failed(struct journal *journal, struct inode *inode)
{
    for (struct list *at = journal->records.next; at != &journal->records; at = at->next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        if (record->inode == inode && !is_name(record) && !record->durable)
            record->doomed = true;
    }
}

/* What happened earlier to the names of the same file comes with it. */
static void mark_earlier(struct journal *journal, const struct record *of)
{
    for (struct list *at = of->link.prev; at != &journal->records; at = at->prev) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        if (is_name(record) && record->inode == of->inode)
            record->durable = true;
    }
}

/* A file that is gone for good has no bytes that could be lost. */
static void forget_bytes(struct journal *journal, const struct record *unlinked)
{
    struct stat st;
    struct inode *inode = unlinked->inode;
    if (fstat(inode->fd, &st) == 0 && st.st_nlink == inode->trashed)
        journal_sync(journal, inode, false);
}

void journal_sync_dir(struct journal *journal, struct inode *dir)
{
    struct list *next;
    for (struct list *at = journal->records.next; at != &journal->records; at = at->next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        if (!is_name(record) || (record->dir != dir && record->to_dir != dir))
            continue;
        record->durable = true;
        mark_earlier(journal, record);
        if (record->kind == KIND_UNLINKED)
            forget_bytes(journal, record);
    }
    for (struct list *at = journal->records.next; at != &journal->records; at = next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        next = at->next;
        if (is_name(record) && record->durable)
            record_drop(journal, record);
    }
}

void journal_sync_all(struct journal *journal)
{
    while (!list_empty(&journal->records))
        record_drop(journal, CONTAINER_OF(journal->records.next, struct record, link));
}

/* ---- a power cut ---- */

static size_t take_back(struct journal *journal)
{
    size_t ordered = 0;
    for (struct list *at = journal->records.prev; at != &journal->records; at = at->prev) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        ordered += record->kind != KIND_WRITE && !record->durable;
        if (record->kind == KIND_WRITE) {
            write_undo(record);
        } else if (record->kind == KIND_LENGTH) {
            length_set(record, record->old_length);
            record->undone = true;
        } else {
            name_undo(journal, record);
        }
    }
    return ordered;
}

static bool redo(struct journal *journal, struct record *record)
{
    if (!record->undone)
        return false;
    if (is_name(record))
        return name_redo(journal, record);
    length_set(record, record->new_length);
    return true;
}

void journal_power_cut(struct journal *journal, struct power_cut *cut)
{
    uint64_t dice = cut->seed;
    size_t ordered = take_back(journal);
    size_t number = 0, first_lost = 0;
    if (cut->keep >= 1)
        first_lost = ordered;
    else if (cut->keep > 0)
        first_lost = (size_t)(dice_roll(&dice) % (ordered + 1));
    for (struct list *at = journal->records.next; at != &journal->records; at = at->next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        bool done;
        if (record->kind == KIND_WRITE) {
            done = record->undone && write_redo(record, cut, &dice);
        } else {
            bool chosen = record->durable || (cut->any_names ? dice_says(&dice, cut->keep) : number < first_lost);
            number += !record->durable;
            done = chosen && redo(journal, record);
        }
        cut->kept += done;
        cut->lost += !done;
    }
}

/* Lengths that were not published die with their host, or are what they are. */
static void bytes_resume(struct record *record)
{
    struct power_cut all = {.keep = 1};
    uint64_t dice = 0;
    if (record->kind == KIND_LENGTH)
        length_set(record, record->new_length);
    else
        (void)write_redo(record, &all, &dice);
    free(record->fresh);
    record->fresh = NULL;
    record->undone = false;
}

/* In order, whether the part that was done again had it or not: the end is the same. */
void journal_resume(struct journal *journal)
{
    for (struct list *at = journal->records.next; at != &journal->records; at = at->next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        if (!record->undone)
            continue;
        if (is_name(record))
            (void)name_redo(journal, record);
        else
            bytes_resume(record);
    }
}

/* ---- late deletion ---- */

void journal_set_gone(struct journal *journal, enum gone_mode mode, unsigned delay_ms)
{
    journal->gone_mode = mode;
    journal->gone_delay_ms = delay_ms;
}

static void bytes_go(const struct journal *journal, const struct inode *inode)
{
    int fd = inode_open(inode, O_RDWR);
    if (fd < 0)
        return;
    off_t length = length_of(fd);
    set_length(fd, journal->gone_mode == GONE_SHORT ? length / 2 : 0);
    if (journal->gone_mode == GONE_ZERO)
        set_length(fd, length);
    close(fd);
}

/* The removal itself counts as durable then. */
static void unlinked_forget(struct journal *journal, unsigned spare)
{
    for (struct list *at = journal->records.next; at != &journal->records; at = at->next) {
        struct record *record = CONTAINER_OF(at, struct record, link);
        if (record->kind == KIND_UNLINKED && record->spare == spare) {
            record_drop(journal, record);
            return;
        }
    }
}

unsigned journal_reap(struct journal *journal, bool all)
{
    unsigned count = 0;
    struct list *next;
    uint64_t now = now_ms();
    for (struct list *at = journal->gone.next; at != &journal->gone; at = next) {
        struct gone *gone = CONTAINER_OF(at, struct gone, link);
        next = at->next;
        if (!all && (journal->gone_delay_ms == 0 || gone->due_ms > now))
            continue;
        bytes_go(journal, gone->inode);
        unlinked_forget(journal, gone->spare);
        struct inode *inode = gone->inode;
        unsigned spare = gone->spare;
        inode_ref(journal->inodes, inode);
        gone_drop(journal, gone);
        spare_drop(journal, spare, inode);
        inode_unref(journal->inodes, inode, 1);
        count++;
    }
    return count;
}
