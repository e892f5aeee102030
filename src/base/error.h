/* error.h - the one number space of operating errors.
 *
 * 0 is success, a negative errno is what libuv, liburing and the kernel say, and kvd's own start at -5001 and go down.
 * Ordinary outcomes (a miss, need more bytes) are named enum values >= 0 of the module that has them, never these.
 */
#ifndef KVD_BASE_ERROR_H
#define KVD_BASE_ERROR_H

enum {
    KVD_EPROTO = -5001,       /* bytes that are no frame, or meta that is not what the op defines */
    KVD_ECORRUPT = -5002,     /* checksum, header or key differ from what was written */
    KVD_ESHORT = -5003,       /* the file ends before the record does */
    KVD_EBUSY = -5004,        /* no room now; there may be later */
    KVD_ETOOLARGE = -5005,    /* beyond a configured limit */
    KVD_EOFF = -5006,         /* the disk tier is off, or not open yet */
    KVD_EFULL = -5007,        /* the disk tier can make no room */
    KVD_ECLOSING = -5008,     /* on the way out */
    KVD_EFORMAT = -5009,      /* a file of a newer format, or of none that we know */
    KVD_ETIMEOUT = -5010,     /* the deadline passed */
    KVD_EUNSUPPORTED = -5011, /* the peer does not know the op, or not this way of asking */
    KVD_EDENIED = -5012,      /* authentication or rights are missing */
    KVD_EREFUSED = -5013,     /* the peer refused: its message says why */
    KVD_EUSAGE = -5014,       /* a flag, a size or a file name that makes no sense */
    KVD_ESTALE = -5015,       /* the object's file is gone, or holds another by now: somebody else was there */
};

/* A short lower-case text for `err` (an errno's own for those); never NULL; static storage. Any thread. */
const char *error_text(int err);

#endif
