#include "vfs.h"

#include <errno.h>
#include <string.h>

#include "sim.h"

enum { PAGE = 4096, SECTOR = 512 };

struct page {
    uint32_t refs;
    uint8_t bytes[PAGE];
};

struct change {
    struct list link;
    uint64_t number;
    unsigned host; /* that made it */
    bool truncate;
    uint64_t offset, len; /* of the bytes; len: the new length of a truncate */
    uint32_t first, count;
    struct page *pages[];
};

struct name {
    struct list link;
    struct inode *inode;
    char path[];
};

enum move_kind { MOVE_ADD, MOVE_DROP, MOVE_RENAME };
struct move {
    struct list link;
    uint64_t number;
    enum move_kind kind;
    struct inode *inode;
    char from[128], to[128];
};

/* ---- pages ---- */

static void page_unref(struct page *page)
{
    if (page && --page->refs == 0)
        sim_free(page);
}

static struct page *pages_get(const struct pages *pages, uint32_t at)
{
    return at < pages->room ? pages->at[at] : NULL;
}

/* Takes the reference. */
static void pages_set(struct pages *pages, uint32_t at, struct page *page)
{
    if (at >= pages->room) {
        if (!page)
            return;
        uint32_t room = pages->room ? pages->room : 16;
        while (room <= at)
            room *= 2;
        pages->at = sim_grow(pages->at, room * sizeof(struct page *));
        memset(pages->at + pages->room, 0, (room - pages->room) * sizeof(struct page *));
        pages->room = room;
    }
    page_unref(pages->at[at]);
    pages->at[at] = page;
}

static uint64_t pages_count(const struct pages *pages)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < pages->room; i++)
        count += pages->at[i] != NULL;
    return count;
}

static struct page *page_copy(const struct page *from)
{
    struct page *page = sim_alloc(sizeof *page);
    page->refs = 1;
    if (from)
        memcpy(page->bytes, from->bytes, PAGE);
    return page;
}

/* Cut or lengthen; what is beyond reads as zeros afterwards. */
static void pages_resize(struct pages *pages, uint64_t len)
{
    uint32_t keep = (uint32_t)((len + PAGE - 1) / PAGE);
    for (uint32_t i = keep; i < pages->room; i++)
        pages_set(pages, i, NULL);
    struct page *last = len % PAGE ? pages_get(pages, keep - 1) : NULL;
    if (last && len < pages->size) {
        struct page *cut = page_copy(last);
        memset(cut->bytes + len % PAGE, 0, PAGE - len % PAGE);
        pages_set(pages, keep - 1, cut);
    }
    pages->size = len;
}

static void pages_clear(struct pages *pages)
{
    for (uint32_t i = 0; i < pages->room; i++)
        page_unref(pages->at[i]);
    sim_free(pages->at);
    *pages = (struct pages){0};
}

static void pages_become(struct pages *to, const struct pages *from)
{
    for (uint32_t i = 0; i < to->room || i < from->room; i++) {
        struct page *page = pages_get(from, i);
        if (page)
            page->refs++;
        pages_set(to, i, page);
    }
    to->size = from->size;
}

/* Put bytes [from, to) of `page` into page `at` of the content. */
static void pages_patch(struct pages *pages, uint32_t at, struct page *page, uint64_t from, uint64_t to)
{
    if (from == 0 && to == PAGE) {
        page->refs++;
        pages_set(pages, at, page);
        return;
    }
    struct page *patched = page_copy(pages_get(pages, at));
    memcpy(patched->bytes + from, page->bytes + from, to - from);
    pages_set(pages, at, patched);
}

/* ---- changes of content ---- */

static void change_free(struct change *change)
{
    list_remove(&change->link);
    for (uint32_t i = 0; i < change->count; i++)
        page_unref(change->pages[i]);
    sim_free(change);
}

static void change_bounds(const struct change *change, uint32_t i, uint64_t *from, uint64_t *to)
{
    uint64_t start = (uint64_t)(change->first + i) * PAGE;
    *from = change->offset > start ? change->offset - start : 0;
    *to = min_u64(PAGE, change->offset + change->len - start);
}

enum fate { FATE_ALL, FATE_NONE, FATE_PAGES, FATE_SECTORS, FATE_HEAD, FATE_LENGTH };

/* What of this page arrives. */
static void change_apply_page(const struct change *change, struct pages *to, uint32_t i, enum fate fate)
{
    uint64_t from, end;
    change_bounds(change, i, &from, &end);
    if (fate == FATE_PAGES && chance_one_in(2))
        return;
    if (fate != FATE_SECTORS) {
        pages_patch(to, change->first + i, change->pages[i], from, end);
        return;
    }
    for (uint64_t at = from; at < end;) {
        uint64_t next = min_u64(end, at / SECTOR * SECTOR + SECTOR);
        if (chance_one_in(2))
            pages_patch(to, change->first + i, change->pages[i], at, next);
        at = next;
    }
}

static void change_apply(const struct change *change, struct pages *to, enum fate fate)
{
    if (fate == FATE_NONE)
        return;
    if (change->truncate) {
        pages_resize(to, change->len);
        return;
    }
    uint32_t count = fate == FATE_HEAD ? (uint32_t)chance_below(change->count + 1) : change->count;
    for (uint32_t i = 0; i < count && fate != FATE_LENGTH; i++)
        change_apply_page(change, to, i, fate);
    uint64_t end = change->offset + change->len;
    if (fate == FATE_HEAD && count < change->count)
        end = min_u64(end, (uint64_t)(change->first + count) * PAGE);
    to->size = max_u64(to->size, end);
}

static struct change *change_new(struct vfs *vfs, struct inode *inode, uint32_t pages)
{
    struct change *change = sim_alloc(sizeof *change + pages * sizeof(struct page *));
    change->number = ++vfs->change;
    change->host = inode->writer = sim->host->number;
    list_push_back(&inode->changes, &change->link);
    return change;
}

uint64_t vfs_read(struct inode *inode, uint64_t offset, void *at, uint64_t len)
{
    if (offset >= inode->now.size)
        return 0;
    len = min_u64(len, inode->now.size - offset);
    for (uint64_t done = 0; done < len;) {
        uint64_t in_page = (offset + done) % PAGE;
        uint64_t part = min_u64(PAGE - in_page, len - done);
        const struct page *page = pages_get(&inode->now, (uint32_t)((offset + done) / PAGE));
        if (page)
            memcpy((uint8_t *)at + done, page->bytes + in_page, part);
        else
            memset((uint8_t *)at + done, 0, part);
        done += part;
    }
    return len;
}

bool vfs_write(struct vfs *vfs, struct inode *inode, uint64_t offset, const void *at, uint64_t len)
{
    if (len == 0)
        return true;
    uint32_t first = (uint32_t)(offset / PAGE);
    uint32_t count = (uint32_t)((offset + len - 1) / PAGE) - first + 1;
    uint64_t fresh = 0;
    for (uint32_t i = 0; i < count; i++)
        fresh += pages_get(&inode->now, first + i) == NULL;
    if (vfs->pages + fresh > vfs->capacity_pages)
        return false;
    vfs->pages += fresh;
    struct change *change = change_new(vfs, inode, count);
    change->offset = offset;
    change->len = len;
    change->first = first;
    change->count = count;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t from, to;
        change_bounds(change, i, &from, &to);
        struct page *page = page_copy(to - from == PAGE ? NULL : pages_get(&inode->now, first + i));
        memcpy(page->bytes + from, (const uint8_t *)at + ((uint64_t)(first + i) * PAGE + from - offset), to - from);
        page->refs = 2;
        pages_set(&inode->now, first + i, page);
        change->pages[i] = page;
    }
    inode->now.size = max_u64(inode->now.size, offset + len);
    return true;
}

void vfs_truncate(struct vfs *vfs, struct inode *inode, uint64_t len)
{
    struct change *change = change_new(vfs, inode, 0);
    change->truncate = true;
    change->len = len;
    vfs->pages -= pages_count(&inode->now);
    pages_resize(&inode->now, len);
    vfs->pages += pages_count(&inode->now);
    vfs_publish(inode);
}

void vfs_sync(struct vfs *vfs, struct inode *inode, uint64_t upto)
{
    (void)vfs;
    vfs_publish(inode);
    for (struct list *at; (at = list_first(&inode->changes)) != NULL;) {
        struct change *change = CONTAINER_OF(at, struct change, link);
        if (change->number > upto)
            break;
        change_apply(change, &inode->durable, FATE_ALL);
        change_free(change);
    }
}

static void inode_recount(struct vfs *vfs, struct inode *inode, uint64_t before)
{
    vfs->pages += pages_count(&inode->now);
    vfs->pages -= before;
}

/* What readers see is what is durable and what is still to be. */
static void now_again(struct inode *inode)
{
    pages_become(&inode->now, &inode->durable);
    for (struct list *at = inode->changes.next; at != &inode->changes; at = at->next)
        change_apply(CONTAINER_OF(at, struct change, link), &inode->now, FATE_ALL);
}

void vfs_sync_failed(struct vfs *vfs, struct inode *inode, uint64_t upto)
{
    for (struct list *at; (at = list_first(&inode->changes)) != NULL;) {
        struct change *change = CONTAINER_OF(at, struct change, link);
        if (change->number > upto)
            break;
        change_apply(change, &inode->durable, chance_one_in(2) ? FATE_ALL : chance_one_in(2) ? FATE_PAGES : FATE_NONE);
        change_free(change);
    }
    if (!chance_one_in(3))
        return;
    /* The cache lets go of what it could not write: readers see what is on the disk. */
    uint64_t before = pages_count(&inode->now);
    now_again(inode);
    inode_recount(vfs, inode, before);
}

/* ---- names ---- */

static struct name *name_find(const struct list *names, const char *path)
{
    for (struct list *at = names->next; at != names; at = at->next)
        if (strcmp(CONTAINER_OF(at, struct name, link)->path, path) == 0)
            return CONTAINER_OF(at, struct name, link);
    return NULL;
}

static void name_add(struct list *names, const char *path, struct inode *inode)
{
    struct name *name = sim_alloc(sizeof *name + strlen(path) + 1);
    strcpy(name->path, path);
    name->inode = inode;
    inode->links++;
    list_push_back(names, &name->link);
}

static void name_drop(struct vfs *vfs, struct name *name)
{
    struct inode *inode = name->inode;
    list_remove(&name->link);
    sim_free(name);
    inode->links--;
    vfs_put(vfs, inode);
}

void vfs_keep(struct inode *inode)
{
    inode->links++;
}

void vfs_let_go(struct vfs *vfs, struct inode *inode)
{
    inode->links--;
    vfs_put(vfs, inode);
}

void vfs_put(struct vfs *vfs, struct inode *inode)
{
    if (inode->links > 0 || inode->opens > 0)
        return;
    vfs->pages -= pages_count(&inode->now);
    for (struct list *at; (at = list_first(&inode->changes)) != NULL;)
        change_free(CONTAINER_OF(at, struct change, link));
    pages_clear(&inode->now);
    pages_clear(&inode->durable);
    list_remove(&inode->link);
    sim_free(inode);
}

void vfs_publish(struct inode *inode)
{
    inode->published = inode->now.size;
}

static void move_add(struct vfs *vfs, enum move_kind kind, struct inode *inode, const char *from, const char *to)
{
    struct move *move = sim_alloc(sizeof *move);
    move->number = ++vfs->change;
    move->kind = kind;
    move->inode = inode;
    inode->links++;
    snprintf(move->from, sizeof move->from, "%s", from);
    snprintf(move->to, sizeof move->to, "%s", to);
    list_push_back(&vfs->moves, &move->link);
}

static void move_free(struct vfs *vfs, struct move *move)
{
    struct inode *inode = move->inode;
    list_remove(&move->link);
    sim_free(move);
    inode->links--;
    vfs_put(vfs, inode);
}

static void durable_drop(struct vfs *vfs, const char *path, const struct inode *inode)
{
    struct name *name = name_find(&vfs->durable, path);
    if (name && (!inode || name->inode == inode))
        name_drop(vfs, name);
}

static void move_apply(struct vfs *vfs, const struct move *move)
{
    if (move->kind == MOVE_ADD) {
        durable_drop(vfs, move->to, NULL);
        name_add(&vfs->durable, move->to, move->inode);
    } else if (move->kind == MOVE_DROP) {
        durable_drop(vfs, move->from, move->inode);
    } else {
        durable_drop(vfs, move->to, NULL);
        name_add(&vfs->durable, move->to, move->inode);
        durable_drop(vfs, move->from, move->inode);
    }
}

struct inode *vfs_find(struct vfs *vfs, const char *path)
{
    struct name *name = name_find(&vfs->names, path);
    return name ? name->inode : NULL;
}

struct inode *vfs_create(struct vfs *vfs, const char *path, bool folder)
{
    if (name_find(&vfs->names, path))
        return NULL;
    struct inode *inode = sim_alloc(sizeof *inode);
    inode->number = ++vfs->next_number;
    inode->folder = folder;
    inode->values = !folder && (strstr(path, ".seg") || strstr(path, "/objects/"));
    list_init(&inode->changes);
    list_push_back(&vfs->inodes, &inode->link);
    name_add(&vfs->names, path, inode);
    move_add(vfs, MOVE_ADD, inode, "", path);
    return inode;
}

bool vfs_unlink(struct vfs *vfs, const char *path)
{
    struct name *name = name_find(&vfs->names, path);
    if (!name || name->inode->folder)
        return false;
    name->inode->gone_us = sim->now_us + 1;
    move_add(vfs, MOVE_DROP, name->inode, path, "");
    name_drop(vfs, name);
    return true;
}

int vfs_remove_folder(struct vfs *vfs, const char *path)
{
    struct name *name = name_find(&vfs->names, path);
    size_t len = strlen(path);
    if (!name || !name->inode->folder)
        return -ENOENT;
    for (struct list *at = vfs->names.next; at != &vfs->names; at = at->next)
        if (strncmp(CONTAINER_OF(at, struct name, link)->path, path, len) == 0 && CONTAINER_OF(at, struct name, link)->path[len] == '/')
            return -ENOTEMPTY;
    move_add(vfs, MOVE_DROP, name->inode, path, "");
    name_drop(vfs, name);
    vfs_sync_dir(vfs, "");
    return 0;
}

bool vfs_rename(struct vfs *vfs, const char *from, const char *to)
{
    struct name *name = name_find(&vfs->names, from);
    if (!name)
        return false;
    struct inode *inode = name->inode;
    struct name *old = name_find(&vfs->names, to);
    if (old) {
        old->inode->gone_us = sim->now_us + 1;
        name_drop(vfs, old);
    }
    name_add(&vfs->names, to, inode);
    move_add(vfs, MOVE_RENAME, inode, from, to);
    name_drop(vfs, name);
    return true;
}

static bool lies_in(const char *path, const char *folder)
{
    size_t len = strlen(folder);
    while (len > 0 && folder[len - 1] == '/')
        len--;
    return strncmp(path, folder, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/');
}

/* Folders are made durable as they are made. */
void vfs_sync_dir(struct vfs *vfs, const char *path)
{
    struct list *next;
    for (struct list *at = vfs->moves.next; at != &vfs->moves; at = next) {
        next = at->next;
        struct move *move = CONTAINER_OF(at, struct move, link);
        if (path[0] != '\0' && !lies_in(move->kind == MOVE_DROP ? move->from : move->to, path))
            continue;
        move_apply(vfs, move);
        move_free(vfs, move);
    }
}

void vfs_list(struct vfs *vfs, const char *path, vfs_name_fn fn, void *arg)
{
    for (struct list *at = vfs->names.next, *next; at != &vfs->names; at = next) {
        struct name *name = CONTAINER_OF(at, struct name, link);
        next = at->next;
        if (lies_in(name->path, path))
            fn(arg, name->path, strrchr(name->path, '/') + 1, name->inode);
    }
}

/* ---- time and crashes ---- */

void vfs_write_back(struct vfs *vfs)
{
    for (struct list *at = vfs->inodes.next; at != &vfs->inodes; at = at->next)
        if (chance_one_in(2))
            vfs_sync(vfs, CONTAINER_OF(at, struct inode, link), UINT64_MAX);
    if (chance_one_in(2))
        vfs_sync_dir(vfs, "");
}

static enum fate fate_choose(enum cut cut)
{
    static const enum fate parts[] = {FATE_ALL, FATE_NONE, FATE_PAGES, FATE_SECTORS, FATE_HEAD, FATE_LENGTH};
    if (cut == CUT_LOSES)
        return FATE_NONE;
    if (cut == CUT_KEEPS)
        return FATE_ALL;
    return cut == CUT_EITHER ? (chance_one_in(2) ? FATE_ALL : FATE_NONE) : parts[chance_below(6)];
}

/* What this host had not synced. */
static void inode_cut(struct vfs *vfs, struct inode *inode, enum cut cut)
{
    for (struct list *at = inode->changes.next, *next; at != &inode->changes; at = next) {
        struct change *change = CONTAINER_OF(at, struct change, link);
        next = at->next;
        if (change->host != sim->host->number)
            continue;
        enum fate fate = fate_choose(cut);
        if (change->truncate && fate > FATE_NONE)
            fate = chance_one_in(2) ? FATE_ALL : FATE_NONE;
        change_apply(change, &inode->durable, fate);
        change_free(change);
    }
    uint64_t before = pages_count(&inode->now);
    now_again(inode);
    inode_recount(vfs, inode, before);
}

static void names_cut(struct vfs *vfs, enum cut cut)
{
    for (struct list *at; (at = list_first(&vfs->moves)) != NULL;) {
        struct move *move = CONTAINER_OF(at, struct move, link);
        if (cut == CUT_KEEPS || (cut > CUT_KEEPS && chance_one_in(2)))
            move_apply(vfs, move);
        move_free(vfs, move);
    }
    for (struct list *at; (at = list_first(&vfs->names)) != NULL;)
        name_drop(vfs, CONTAINER_OF(at, struct name, link));
    for (struct list *at = vfs->durable.next; at != &vfs->durable; at = at->next)
        name_add(&vfs->names, CONTAINER_OF(at, struct name, link)->path, CONTAINER_OF(at, struct name, link)->inode);
}

void vfs_crash(struct vfs *vfs, bool power, enum cut cut)
{
    struct list *next;
    for (struct list *at = vfs->inodes.next; at != &vfs->inodes && power; at = at->next)
        inode_cut(vfs, CONTAINER_OF(at, struct inode, link), cut);
    if (power && !vfs->shared)
        names_cut(vfs, cut);
    for (struct list *at = vfs->inodes.next; at != &vfs->inodes; at = next) {
        next = at->next;
        vfs_put(vfs, CONTAINER_OF(at, struct inode, link));
    }
}

void vfs_unmount(struct vfs *vfs)
{
    enum cut cut = chance_one_in(2) ? CUT_KEEPS : CUT_EITHER;
    for (struct list *at = vfs->inodes.next; at != &vfs->inodes; at = at->next)
        inode_cut(vfs, CONTAINER_OF(at, struct inode, link), cut);
}

uint64_t vfs_value_bytes(struct vfs *vfs, const char *node)
{
    uint64_t bytes = 0;
    char folder[64];
    snprintf(folder, sizeof folder, "/%s/", node);
    for (struct list *at = vfs->names.next; at != &vfs->names; at = at->next) {
        const struct name *name = CONTAINER_OF(at, struct name, link);
        if (name->inode->values && (strstr(name->path, folder) || strstr(name->path, "/objects/")))
            bytes += name->inode->now.size;
    }
    return bytes;
}

void vfs_init(struct vfs *vfs, uint64_t capacity_bytes)
{
    *vfs = (struct vfs){.capacity_pages = capacity_bytes / PAGE};
    list_init(&vfs->inodes);
    list_init(&vfs->names);
    list_init(&vfs->durable);
    list_init(&vfs->moves);
}

void vfs_fini(struct vfs *vfs)
{
    vfs_sync_dir(vfs, "");
    for (struct list *at; (at = list_first(&vfs->names)) != NULL;)
        name_drop(vfs, CONTAINER_OF(at, struct name, link));
    for (struct list *at; (at = list_first(&vfs->durable)) != NULL;)
        name_drop(vfs, CONTAINER_OF(at, struct name, link));
    for (struct list *at; (at = list_first(&vfs->inodes)) != NULL;) {
        struct inode *inode = CONTAINER_OF(at, struct inode, link);
        inode->opens = inode->links = 0;
        vfs_put(vfs, inode);
    }
}
