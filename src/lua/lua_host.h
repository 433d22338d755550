/* lua/lua_host.h - what the files of the Lua module share: its types, and how a Lua value stands in for a provider.
 *
 * Functions marked RAISES may longjmp: nothing that would leak may be held across them. What the engine calls back
 * comes in through unmarked functions, which touch Lua only inside lua_pcall. */
#ifndef LUA_HOST_H
#define LUA_HOST_H

#include "core/engine.h"
#include "core/registry.h"
#include "core/run.h"

#include <lauxlib.h>

#define RAISES

/* ---- types ------------------------------------------------------------------------------------------------------- */

#define REGISTRY_TYPE "deputy.registry"
#define PROVIDER_TYPE "deputy.provider"
#define ROUTER_TYPE   "deputy.router"

/* Its user value is a table: number -> the provider as the host registered it. */
struct lua_registry {
    struct registry *registry; /* NULL once closed */
    lua_Integer last;
};

/* A provider made in C. */
struct lua_provider {
    deputy_provider *provider; /* NULL once closed */
};

enum { ROUTER_REGISTRY = 1, ROUTER_ON_LOG, ROUTER_PROBE, ROUTER_USER_VALUES = ROUTER_PROBE };

struct lua_router {
    deputy_engine *engine; /* NULL once closed; its log_user leads back here */
    deputy_provider *primary;
    struct frame *frame; /* the call that is under way, or NULL */
};

enum frame_mode { FRAME_SETUP, FRAME_RUN, FRAME_HTTP };

/* A call into a router from Lua: where the engine's callbacks find the Lua that waits for it. Lives on the C stack. All
 * numbers are indices on L's stack, in the C function that made the frame. */
struct frame {
    struct frame *outer;
    lua_State *L;
    enum frame_mode mode;
    int self;
    int values;     /* the registry's table of providers */
    int primary;    /* FRAME_RUN: the functions; */
    int substitute; /* nil there: the provider's own complete */
    int llm;
};

RAISES void registry_type(lua_State *L);
RAISES int registry_make(lua_State *L);
RAISES struct lua_registry *registry_check(lua_State *L, int index);

RAISES void provider_type(lua_State *L);
RAISES int provider_openai(lua_State *L);
RAISES int provider_echo(lua_State *L);
struct lua_provider *provider_test(lua_State *L, int index); /* NULL: it is none */

RAISES void router_type(lua_State *L);
RAISES int router_make(lua_State *L);

/* The object at index 1, which has to be of this type. */
RAISES void *self_check(lua_State *L, const char *type, const char *word);

/* ---- Lua values as providers (lua_proxy.c) ----------------------------------------------------------------------- */

/* A provider that stands for entry id of a registry's table; real (may be NULL) is the one behind it when that is a
 * provider made in C; a reference is taken. */
int proxy_new(const char *name, lua_Integer id, deputy_provider *real, deputy_provider **provider, deputy_error *error);
lua_Integer proxy_id(const deputy_provider *proxy);

/* What a router gives a run as its primary: it calls the frame's function. */
int primary_new(struct lua_router *router, deputy_provider **primary, deputy_error *error);

/* Where on the stack a call's value was left (its result, or its error), or 0. */
int frame_value(const struct deputy_call *call);

/* ---- requests and replies (lua_message.c) ------------------------------------------------------------------------ */

/* Fills request from the table at index: endpoint, body, stream, headers, whole, total_ms, bearer_token, llm. What it
 * points at stays on the stack. */
RAISES void request_read(lua_State *L, int index, const char *what, const char *const *known, deputy_request *request);

/* An empty reply that is cleared with its userdata; pushes it. */
RAISES deputy_reply *reply_box(lua_State *L);

/* { status =, headers =, body = } */
RAISES void reply_push(lua_State *L, const deputy_reply *reply);

/* An array or map of strings at the top becomes headers; *n of at most max. The strings stay the table's. */
RAISES size_t headers_read(lua_State *L, int index, deputy_header *headers, size_t max);

/* Encodes the value at index as JSON and pushes the string. */
RAISES void json_encode(lua_State *L, int index);

/* { kind =, status =, code =, message =, retry_after = } (seconds), in the words that policies see too; tostring makes
 * it a sentence. */
RAISES void failure_push(lua_State *L, const deputy_failure *failure);
RAISES void failure_type(lua_State *L);

/* Gives the table on top a field `trace` that is built when it is first asked for. */
RAISES void trace_attach(lua_State *L, const deputy_trace *legs, size_t n);
RAISES void trace_type(lua_State *L);

/* ---- options (lua_options.c) ------------------------------------------------------------------------------------- */

/* Every key of the table at index must be one of names, which ends with NULL. */
RAISES void options_check(lua_State *L, int index, const char *what, const char *const *names);

/* The option, or NULL/0 when it is absent. Strings stay the table's and hold no NUL byte; numbers are from 1 to max. */
RAISES const char *option_string(lua_State *L, int index, const char *what, const char *name);
RAISES const char *option_text(lua_State *L, int index, const char *what, const char *name, size_t *len);
RAISES lua_Integer option_number(lua_State *L, int index, const char *what, const char *name, lua_Integer max);
/* Pushes the option when it is of this type; 0 and nothing pushed when it is absent. */
RAISES int option_push(lua_State *L, int index, const char *what, const char *name, int type);

#endif
