#include "view.h"

#include <string.h>

#include "sim.h"

struct known {
    struct list link;
    struct inode *inode; /* NULL: there was none */
    uint64_t until_us;
    char path[];
};

void view_init(struct view *view, struct vfs *vfs, unsigned host, uint64_t names_us, uint64_t missing_us)
{
    *view = (struct view){.vfs = vfs, .host = host, .names_us = names_us, .missing_us = missing_us};
    list_init(&view->names);
}

static void known_free(struct view *view, struct known *known)
{
    list_remove(&known->link);
    if (known->inode)
        vfs_let_go(view->vfs, known->inode);
    sim_free(known);
}

void view_forget_all(struct view *view)
{
    for (struct list *at; (at = list_first(&view->names)) != NULL;)
        known_free(view, CONTAINER_OF(at, struct known, link));
    for (struct list *at = view->vfs->inodes.next; at != &view->vfs->inodes; at = at->next)
        CONTAINER_OF(at, struct inode, link)->known_until_us[view->host] = 0;
}

/* What is too old goes on the way. */
static struct known *known_of(struct view *view, const char *path)
{
    struct known *found = NULL;
    for (struct list *at = view->names.next, *next; at != &view->names; at = next) {
        struct known *known = CONTAINER_OF(at, struct known, link);
        next = at->next;
        if (sim->now_us >= known->until_us)
            known_free(view, known);
        else if (strcmp(known->path, path) == 0)
            found = known;
    }
    return found;
}

static void remember(struct view *view, const char *path, struct inode *inode)
{
    uint64_t for_us = inode ? view->names_us : view->missing_us;
    if (for_us == 0)
        return;
    struct known *known = sim_alloc(sizeof *known + strlen(path) + 1);
    strcpy(known->path, path);
    known->inode = inode;
    known->until_us = sim->now_us + for_us;
    if (inode)
        vfs_keep(inode);
    list_push_back(&view->names, &known->link);
}

static void size_learn(const struct view *view, struct inode *inode)
{
    inode->known_until_us[view->host] = sim->now_us + view->names_us;
    inode->known_size[view->host] = inode->published;
}

struct inode *view_find(struct view *view, const char *path, bool *stale)
{
    const struct known *known = known_of(view, path);
    struct inode *there = vfs_find(view->vfs, path);
    struct inode *found = known ? known->inode : there;
    if (!known)
        remember(view, path, there);
    if (!known && there)
        size_learn(view, there); /* the answer to a look-up brings it, also of what a listing has shown before by another name */
    if (stale)
        *stale = found != there;
    if (found != there) {
        sim->figures.stale_names += found != NULL;
        sim->figures.stale_missing += !found;
        note("stale", found ? found->number : 0, there ? there->number : 0, 0);
    }
    return found;
}

void view_forget(struct view *view, const char *path)
{
    struct known *known = known_of(view, path);
    if (known)
        known_free(view, known);
}

void view_made(struct view *view, const char *path, struct inode *inode)
{
    view_forget(view, path);
    remember(view, path, inode);
}

uint64_t view_size(const struct view *view, struct inode *inode)
{
    if (view->names_us == 0 || inode->writer == view->host)
        return inode->now.size;
    if (sim->now_us >= inode->known_until_us[view->host])
        size_learn(view, inode);
    return inode->known_size[view->host];
}
