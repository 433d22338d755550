/* managed/settings.h - what a model server is started by: the options, checked, copied, with their defaults; and what
 * is made of them for one start. */
#ifndef MANAGED_SETTINGS_H
#define MANAGED_SETTINGS_H

#include "deputy/managed.h"

enum { SETTINGS_ARGUMENTS_MAX = 1024, SETTINGS_ARGUMENT_BYTES = 128 << 10 };

struct settings {
    char *name, *cwd, *model, *api_key, *base_path, *health_path, *supervisor;
    char **command, **env; /* ended by NULL; env may be NULL */
    uint16_t port;
    uint32_t ready_ms, idle_ms, stop_grace_ms, restarts, backoff_ms, max_concurrent, max_queued, health_ms;
    uint32_t retry_ms;
    bool any_listener;
    deputy_prewarm prewarm;
};

/* DEPUTY_OK, or a code with error and nothing to free. */
int settings_new(const deputy_managed_options *options, struct settings *settings, deputy_error *error);
void settings_free(struct settings *settings);
bool settings_equal(const struct settings *a, const struct settings *b);

/* A list of malloc'ed strings, ended by NULL. */
void strings_free(char **list);

/* The command, filled in. port 0: {port} stays as it is. NULL when out of memory; strings_free. */
char **settings_command(const struct settings *settings, uint16_t port);

/* What begins the name of a family's mark in its environment. */
#define MARK_PREFIX "DEPUTY_FAMILY_"

/* The host's environment, without what is deputy's own business (its tokens, what systemd told it), with env over it,
 * filled in, and one more entry (may be NULL). As above. */
char **settings_environment(const struct settings *settings, uint16_t port, const char *more);

/* deputy-supervisor: beside the program or the library, else where it was installed. malloc'ed; NULL: it is nowhere, or
 * out of memory. */
char *settings_find_supervisor(void);

#endif
