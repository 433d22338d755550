/* cli/managed.h - the model servers that deputy starts itself, as the configuration wants them.
 *
 * A pool is one for a process; each configuration that is loaded takes a set from it. A server that two configurations
 * want in the same way is one server, so that a reload keeps what runs. Any thread. */
#ifndef CLI_MANAGED_H
#define CLI_MANAGED_H

#include "config.h"

#include <pthread.h>

struct managed_set;
struct managed_key;

/* How a process uses its servers. The pool outlives its sets, and stays where it is. */
struct managed_pool {
    bool only_on_demand;  /* prewarm does not count: for a command that asks once */
    deputy_log_fn on_log; /* may be NULL; from the library's own thread */
    void *log_user;
    pthread_mutex_t lock;
    struct managed_set *sets; /* in use; under lock, as is what follows */
    struct managed_key *keys; /* one for each name, for as long as the process lives */
};

void managed_pool_init(struct managed_pool *pool, deputy_log_fn on_log, void *log_user);
/* After the last set was given back. */
void managed_pool_free(struct managed_pool *pool);

/* What config wants; *set may be NULL when it wants nothing. DEPUTY_OK, or error says which provider and why. */
int managed_take(struct managed_pool *pool, const struct config *config, struct managed_set **set, deputy_error *error);
/* Stops what no other set has; does not wait for it. NULL is allowed. */
void managed_give_back(struct managed_pool *pool, struct managed_set *set);

/* Stops all that are in use, and says whether they have ended: to be called until they have. */
bool managed_end(struct managed_pool *pool);

/* The server of a provider, borrowed from the set, or NULL. set may be NULL. */
deputy_managed *managed_find(const struct managed_set *set, const char *name);

/* verb: "start", "stop" or "restart". As gateway_host.command. */
int managed_command(deputy_managed *managed, const char *verb, deputy_error *error);

/* What it is doing; with_output: its last lines too. As gateway_host.describe. */
void managed_describe(deputy_managed *managed, bool with_output, struct gateway_provider *facts);

/* The last line of what it wrote, without control bytes, ended by NUL; "" when there is none. */
void managed_last_line(deputy_managed *managed, char *line, size_t size);

#endif
