#include "net/kept.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define HASH_NONFATAL_OOM         1
#define uthash_nonfatal_oom(kept) ((kept)->lost = true)
#include <uthash.h>

/* What two ends are called; no byte of it is left unset. */
struct name {
    char ip[INET6_ADDRSTRLEN];
    int port, local_port;
};

struct kept {
    int fd;
    bool lost; /* uthash had no memory for it */
    struct name name;
    UT_hash_handle of_fd, of_name;
};

static int port_of(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    return address->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)address)->sin6_port) : 0;
}

static bool read_name(int fd, struct name *name)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_size = sizeof(here), there_size = sizeof(there);
    memset(name, 0, sizeof(*name));
    if (getsockname(fd, (struct sockaddr *)&here, &here_size) != 0 ||
        getpeername(fd, (struct sockaddr *)&there, &there_size) != 0)
        return false;
    name->port = port_of(&there);
    name->local_port = port_of(&here);
    const void *ip = there.ss_family == AF_INET6 ? (const void *)&((struct sockaddr_in6 *)&there)->sin6_addr
                                                 : &((struct sockaddr_in *)&there)->sin_addr;
    return name->local_port != 0 && inet_ntop(there.ss_family, ip, name->ip, sizeof(name->ip)) != NULL;
}

static struct kept *find(const struct kept_set *set, const struct name *name)
{
    struct kept *kept;
    HASH_FIND(of_name, set->by_name, name, sizeof(*name), kept);
    return kept;
}

static bool put(struct kept_set *set, int fd, const struct name *name)
{
    struct kept *kept = find(set, name) ? NULL : calloc(1, sizeof(*kept));
    if (!kept)
        return false;
    kept->fd = fd;
    kept->name = *name;
    HASH_ADD(of_fd, set->by_fd, fd, sizeof(kept->fd), kept);
    if (!kept->lost) {
        HASH_ADD(of_name, set->by_name, name, sizeof(kept->name), kept);
        if (kept->lost)
            HASH_DELETE(of_fd, set->by_fd, kept);
    }
    if (!kept->lost)
        return true;
    free(kept);
    return false;
}

void kept_add(struct kept_set *set, int fd)
{
    struct kept *kept;
    struct name name;
    HASH_FIND(of_fd, set->by_fd, &fd, sizeof(fd), kept);
    if (!kept && read_name(fd, &name) && !put(set, fd, &name))
        shutdown(fd, SHUT_RDWR);
}

void kept_remove(struct kept_set *set, int fd)
{
    struct kept *kept;
    HASH_FIND(of_fd, set->by_fd, &fd, sizeof(fd), kept);
    if (!kept)
        return;
    HASH_DELETE(of_fd, set->by_fd, kept);
    HASH_DELETE(of_name, set->by_name, kept);
    free(kept);
}

bool kept_is_silent(const struct kept_set *set, const char *ip, int port, int local_port)
{
    struct name name;
    char byte;
    memset(&name, 0, sizeof(name));
    strncpy(name.ip, ip, sizeof(name.ip) - 1);
    name.port = port;
    name.local_port = local_port;
    const struct kept *kept = find(set, &name);
    if (!kept || recv(kept->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        return true;
    return shutdown(kept->fd, SHUT_RDWR) != 0;
}

void kept_free(struct kept_set *set)
{
    while (set->by_fd)
        kept_remove(set, set->by_fd->fd);
}
