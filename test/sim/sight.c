#include "sight.h"

#include <string.h>

#include "sim.h"

struct known {
    struct list link;
    struct inode *inode; /* NULL: there was none */
    uint64_t until_us;
    char path[];
};

void sight_init(struct sight *sight, struct vfs *vfs, unsigned host, uint64_t names_us, uint64_t missing_us)
{
    *sight = (struct sight){.vfs = vfs, .host = host, .names_us = names_us, .missing_us = missing_us};
    list_init(&sight->names);
}

static void known_free(struct sight *sight, struct known *known)
{
    list_remove(&known->link);
    if (known->inode)
        vfs_let_go(sight->vfs, known->inode);
    sim_free(known);
}

void sight_forget_all(struct sight *sight)
{
    for (struct list *at; (at = list_first(&sight->names)) != NULL;)
        known_free(sight, CONTAINER_OF(at, struct known, link));
    for (struct list *at = sight->vfs->inodes.next; at != &sight->vfs->inodes; at = at->next)
        CONTAINER_OF(at, struct inode, link)->known_until_us[sight->host] = 0;
}

/* What is too old goes on the way. */
static struct known *known_of(struct sight *sight, const char *path)
{
    struct known *found = NULL;
    for (struct list *at = sight->names.next, *next; at != &sight->names; at = next) {
        struct known *known = CONTAINER_OF(at, struct known, link);
        next = at->next;
        if (sim->now_us >= known->until_us)
            known_free(sight, known);
        else if (strcmp(known->path, path) == 0)
            found = known;
    }
    return found;
}

static void remember(struct sight *sight, const char *path, struct inode *inode)
{
    uint64_t for_us = inode ? sight->names_us : sight->missing_us;
    if (for_us == 0)
        return;
    struct known *known = sim_alloc(sizeof *known + strlen(path) + 1);
    strcpy(known->path, path);
    known->inode = inode;
    known->until_us = sim->now_us + for_us;
    if (inode)
        vfs_keep(inode);
    list_push_back(&sight->names, &known->link);
}

static void size_learn(const struct sight *sight, struct inode *inode)
{
    inode->known_until_us[sight->host] = sim->now_us + sight->names_us;
    inode->known_size[sight->host] = inode->published;
}

struct inode *sight_find(struct sight *sight, const char *path, bool *stale)
{
    const struct known *known = known_of(sight, path);
    struct inode *there = vfs_find(sight->vfs, path);
    struct inode *found = known ? known->inode : there;
    if (!known)
        remember(sight, path, there);
    if (!known && there)
        size_learn(sight, there); /* the answer to a look-up brings it, also of what a listing has shown before by another name */
    if (stale)
        *stale = found != there;
    if (found != there) {
        sim->figures.stale_names += found != NULL;
        sim->figures.stale_missing += !found;
        note("stale", found ? found->number : 0, there ? there->number : 0, 0);
    }
    return found;
}

void sight_forget(struct sight *sight, const char *path)
{
    struct known *known = known_of(sight, path);
    if (known)
        known_free(sight, known);
}

void sight_made(struct sight *sight, const char *path, struct inode *inode)
{
    sight_forget(sight, path);
    remember(sight, path, inode);
}

uint64_t sight_size(const struct sight *sight, struct inode *inode)
{
    if (sight->names_us == 0 || inode->writer == sight->host)
        return inode->now.size;
    if (sim->now_us >= inode->known_until_us[sight->host])
        size_learn(sight, inode);
    return inode->known_size[sight->host];
}
