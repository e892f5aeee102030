/* object_file.h - one object's own file: a record's header, then its value, as docs/disk-format.md has it.
 *
 * Blocking; for jobs. Knows nothing of who wants what, of folders, or of other files.
 * Thread: any; one file by one thread at a time. A blob that is written or filled is not changed by anybody else meanwhile.
 */
#ifndef KVD_TIER_OBJECT_FILE_H
#define KVD_TIER_OBJECT_FILE_H

#include "loop/fs.h"
#include "tier/pool.h"
#include "tier/record.h"

struct object_file {
    struct file file;
    uint8_t *header; /* its blocks, on the heap */
    struct record record;
    struct record_shape shape;
};

/* Bytes that the file of such an object has. */
uint64_t object_file_bytes(size_t key_len, uint64_t size);

/* Open for reading and judge the header. 0; -ENOENT; KVD_ESHORT, KVD_ECORRUPT: what is there is no record; KVD_EFORMAT: one of a newer
 * format; -ENOMEM, -errno. On errors nothing stays open. */
int object_file_open(struct loop *loop, const char *path, struct object_file *out);
void object_file_close(struct loop *loop, struct object_file *file);

/* Read [offset, offset + blob_size()) of the value, `offset` a multiple of 256 KiB, at most `piece_bytes` at once, into a blob with all its
 * room, and judge each chunk's sum; a whole value keeps them. 0, KVD_ESHORT, KVD_ECORRUPT, -ENOMEM, -errno. */
int object_file_read(struct loop *loop, const struct object_file *file, uint64_t offset, struct blob *blob, uint64_t piece_bytes);

/* Make `path`, which must not exist, write header and value, fsync. 0, -EEXIST, -ENOENT (the folder is not there), -ENOMEM, -errno: then
 * something of it may be left, but for the first two. */
int object_file_write(struct loop *loop, const char *path, const struct record *record, const struct blob *blob);

#endif
