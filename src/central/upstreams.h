/* central/upstreams.h - the providers that stand for LLMs' upstreams: made when they are first asked for, kept while
 * they are used, made anew when their settings or their key's file changed. */
#ifndef CENTRAL_UPSTREAMS_H
#define CENTRAL_UPSTREAMS_H

#include "central/app.h"
#include "relay/errors.h"
#include "relay/log.h"

#include "deputy.h"

#include <stdint.h>

enum { UPSTREAMS_MAX = 256 };

struct upstream;

/* Zeroed at first, with log and ca_file (may be NULL) set. */
struct upstreams {
    struct upstream *all;
    uint64_t uses;
    struct log *log;
    const char *ca_file;
};

/* An upstream's key, "" when it has none. */
struct secret {
    unsigned users;
    char text[];
};

void secret_unref(struct secret *secret); /* NULL is allowed */

/* A reference to the provider and one to its key, the caller's. NULL, and no key: problem says so without telling more
 * than a caller may know; the log says the rest. */
deputy_provider *upstreams_get(struct upstreams *upstreams, const struct app_forward *forward, struct secret **secret,
                               struct problem *problem);

/* Forgets all; runs under way keep theirs. */
void upstreams_clear(struct upstreams *upstreams);

#endif
