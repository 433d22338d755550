/* central/app.h - the Lua side of the control plane: asked for each request, answers with a reply or with where to
 * forward it. Whatever goes wrong in Lua allows nothing.
 *
 * What Lua has to be: `require "central.app"` has new{ db =, log = function(level, text), watch = function(fd) } (an
 * object, or nil and why; watch is told the socket of the database, nil before it is closed: watchdog.h),
 * and the object has the methods handle(request), authorize(request), tick() and close(); it may have ready(): true, or
 * nil and why. request has method, target, authorization, content_type, body, model, peer and id, strings or nil, and
 * is valid during the call. handle answers { status =, headers = {name = value}, body =, user =, route = } or
 * { forward = { key =, name =, url =, model =, api_key_env =, api_key_file =, type = "openai" }, endpoint =, dialect =,
 * user = }; authorize the same as the former, or nil: go on. */
#ifndef CENTRAL_APP_H
#define CENTRAL_APP_H

#include "http1/server.h"
#include "relay/errors.h"
#include "relay/log.h"

#include <stdbool.h>
#include <stddef.h>

enum { APP_HEADERS = 32 };

struct app;

/* What Lua is told. NULL: nil. id and peer are asked of exchange only when Lua wants them. */
struct app_request {
    struct http1_exchange *exchange;
    const char *method, *target, *authorization, *content_type, *model, *id;
    const void *body;
    size_t body_len;
};

/* An upstream. key differs whenever anything else here does. */
struct app_forward {
    const char *key, *name, *url;
    const char *model, *api_key_env, *api_key_file; /* or NULL */
};

/* Strings live until app_forget. */
struct app_reply {
    bool failed; /* Lua did: the log says why; nothing else is set */
    int status;  /* 0: forward when forward.key is there, else go on */
    struct http1_header headers[APP_HEADERS];
    size_t n_headers;
    const char *body;
    size_t body_len;
    const char *user, *route, *llm, *code; /* for the log; or NULL */
    struct app_forward forward;
    const char *endpoint;
    enum dialect dialect;
};

/* lua_dir: the folder that holds central/app.lua. log is borrowed. NULL: problem says why. */
struct app *app_open(const char *lua_dir, const char *db, struct log *log, char *problem, size_t problem_size);
void app_close(struct app *app); /* NULL is allowed */

void app_handle(struct app *app, const struct app_request *request, struct app_reply *reply);
void app_authorize(struct app *app, const struct app_request *request, struct app_reply *reply);
void app_forget(struct app *app);

/* Once a second. */
void app_tick(struct app *app);

/* Can it decide now? False: why (one line). */
bool app_ready(struct app *app, char *why, size_t size);

size_t app_bytes(const struct app *app); /* of Lua memory */

#endif
