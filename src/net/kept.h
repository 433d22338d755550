/* net/kept.h - the connections that libcurl keeps, found by what it says of one that it uses again: addresses, no
 * descriptor. */
#ifndef NET_KEPT_H
#define NET_KEPT_H

#include <stdbool.h>

/* One thread's. Zeroed: none. */
struct kept_set {
    struct kept *by_fd, *by_name;
};

/* This connected TCP socket may be used again. One that cannot be told from another, or for which there is no memory,
 * is shut down instead. Others than TCP's are not looked at. */
void kept_add(struct kept_set *set, int fd);

/* It is closed now. One that is not there is no error. */
void kept_remove(struct kept_set *set, int fd);

/* Whether nothing waits to be read there: what came before a request is no answer to it, but maybe one to somebody
 * else's, and libcurl 7.88 would take it for one. false: nothing can be sent on it any more, which makes libcurl take
 * another connection. One that is not there is a new one, and silent. */
bool kept_is_silent(const struct kept_set *set, const char *ip, int port, int local_port);

void kept_free(struct kept_set *set);

#endif
