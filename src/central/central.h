/* central/central.h - the control plane as a host: HTTP in front, decisions in Lua (lua/central/app.lua), inference
 * through an engine. No LLM logic of its own.
 *
 * One thread with one loop and one Lua state. What the database does for a decision happens on the loop, so that
 * statements must have a timeout, which is Lua's to set. More processes on one PostgreSQL serve more callers. */
#ifndef CENTRAL_CENTRAL_H
#define CENTRAL_CENTRAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "deputy.h"

/* Strings live until central_run returns. 0 or NULL takes the default in brackets; the others must be there. */
struct central_settings {
    const char *listen;  /* "HOST:PORT", "[V6]:PORT" or "unix:PATH"; port 0: picked, and said in the log */
    const char *db;      /* "sqlite:FILE" or "postgres://..." */
    const char *lua_dir; /* the folder that holds central/app.lua */
    bool log_json;       /* else logfmt */
    deputy_log_level log_level;
    size_t max_body_bytes;     /* [33554432] of an inference request; what administrates may have ADMIN_BODY */
    size_t max_buffered_bytes; /* [1073741824] of all bodies at once */
    unsigned max_connections;  /* [1024] */
    unsigned max_in_flight;    /* [512] inference requests at once */
    uint32_t drain_ms;         /* [30000] how long replies may take once the end has been asked for */
    deputy_timeouts timeouts;  /* of upstreams */
    const char *ca_file;       /* PEM bundle to trust for upstreams instead of the system's */
};

/* What lua/central/requests.lua takes, which says so after it knows who asks; what is longer than the second one is not
 * read at all. */
enum { ADMIN_BODY = 64 << 10, MAX_ADMIN_BODY = 1 << 20 };

/* Serves until SIGTERM or SIGINT; SIGHUP reads the Lua files and the upstreams' keys again. 0, or 1 with one line on
 * stderr about what is wrong. Signals are the caller's again afterwards. */
int central_run(const struct central_settings *settings);

#endif
