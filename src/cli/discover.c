#include "discover.h"

#include "deputy.h"
#include "lua_main.h"
#include "text.h"

#include <curl/curl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Which server is which, and what becomes of it, is in lua/deputy/discover.lua. Here is how it asks. */

enum { CONNECT_MS = 500, MAX_HEADER_BYTES = 64 << 10, GRACE_MS = 200 };

static const char transfers_type[] = "deputy.transfers";

struct transfer {
    CURL *easy;
    size_t max, header_bytes;
    struct text body;
    char server[64]; /* the header field of that name */
    bool whole;
};

struct transfers {
    CURLM *multi;
    struct curl_slist *headers;
    size_t n;
    struct transfer each[];
};

/* ---- one request --------------------------------------------------------------------------------------------------
 */

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
    struct transfer *transfer = user;
    return text_add(&transfer->body, bytes, size * n, transfer->max) ? size * n : 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    static const char name[] = "server:";
    struct transfer *transfer = user;
    size_t len = size * n;
    transfer->header_bytes += len;
    if (transfer->header_bytes > MAX_HEADER_BYTES)
        return 0;
    if (len >= sizeof(name) && strncasecmp(line, name, sizeof(name) - 1) == 0) {
        line += sizeof(name) - 1, len -= sizeof(name) - 1;
        for (; len > 0 && *line == ' '; len--)
            line++;
        snprintf(transfer->server, sizeof(transfer->server), "%.*s", (int)strcspn(line, "\r\n"), line);
    }
    return size * n;
}

/* As careful as with any stranger: no proxy, no redirect, no other protocol. */
static bool prepare(struct transfers *all, struct transfer *transfer, const char *url, long ms)
{
    CURL *easy = transfer->easy = curl_easy_init();
    return easy && curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_USERAGENT, "deputy/" DEPUTY_VERSION) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, all->headers) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) == CURLE_OK &&
           curl_multi_add_handle(all->multi, easy) == CURLM_OK;
}

/* ---- all of them --------------------------------------------------------------------------------------------------
 */

static int release(lua_State *L)
{
    struct transfers *all = luaL_checkudata(L, 1, transfers_type);
    for (size_t i = 0; i < all->n; i++) {
        if (all->each[i].easy) {
            curl_multi_remove_handle(all->multi, all->each[i].easy);
            curl_easy_cleanup(all->each[i].easy);
        }
        text_free(&all->each[i].body);
    }
    all->n = 0;
    curl_multi_cleanup(all->multi);
    curl_slist_free_all(all->headers);
    all->multi = NULL, all->headers = NULL;
    return 0;
}

/* On the stack; what it owns goes when Lua collects it, whatever happens until then. */
static struct transfers *new_transfers(lua_State *L, size_t n)
{
    size_t size = sizeof(struct transfers) + n * sizeof(struct transfer);
    struct transfers *all = lua_newuserdatauv(L, size, 0);
    memset(all, 0, size);
    all->n = n;
    if (luaL_newmetatable(L, transfers_type)) {
        lua_pushcfunction(L, release);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return all;
}

static bool drive(struct transfers *all, long ms)
{
    int running = 1, rounds = 0;
    /* Each transfer ends by its own deadline; the rounds are only there in case one does not. */
    while (running && rounds++ < 100000) {
        if (curl_multi_perform(all->multi, &running) != CURLM_OK)
            return false;
        if (running && curl_multi_poll(all->multi, NULL, 0, (int)ms + GRACE_MS, NULL) != CURLM_OK)
            return false;
    }
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(all->multi, &left));) {
        struct transfer *transfer = NULL;
        if (message->msg == CURLMSG_DONE && message->data.result == CURLE_OK &&
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer) == CURLE_OK && transfer)
            transfer->whole = true;
    }
    return true;
}

static void push_reply(lua_State *L, const struct transfer *transfer)
{
    long status = 0;
    curl_off_t connected = 0;
    if (!transfer->whole || curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK) {
        if (curl_easy_getinfo(transfer->easy, CURLINFO_CONNECT_TIME_T, &connected) == CURLE_OK && connected > 0)
            lua_createtable(L, 0, 0);
        else
            lua_pushboolean(L, 0);
        return;
    }
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushlstring(L, transfer->body.bytes ? transfer->body.bytes : "", transfer->body.len);
    lua_setfield(L, -2, "body");
    lua_pushstring(L, transfer->server);
    lua_setfield(L, -2, "server");
}

/* fetch(urls, ms, max): see discover.lua. */
static int fetch(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    long ms = (long)luaL_checkinteger(L, 2);
    size_t max = (size_t)luaL_checkinteger(L, 3), n = (size_t)lua_rawlen(L, 1);
    struct transfers *all = new_transfers(L, n);
    all->multi = curl_multi_init();
    all->headers = curl_slist_append(NULL, "Accept: application/json");
    if (!all->multi || !all->headers)
        return luaL_error(L, "out of memory");
    for (size_t i = 0; i < n; i++) {
        all->each[i].max = max;
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        if (!prepare(all, &all->each[i], luaL_checkstring(L, -1), ms))
            return luaL_error(L, "libcurl cannot be used");
        lua_pop(L, 1);
    }
    if (!drive(all, ms))
        return luaL_error(L, "libcurl failed");
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_reply(L, &all->each[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- the command --------------------------------------------------------------------------------------------------
 */

int discover_run(const struct options *options)
{
    static const struct luaL_Reg lent[] = {{"fetch", fetch}, {NULL, NULL}};
    char name[] = "discover", json[] = "--json", ports[256], llm[1024];
    char *arguments[4] = {name};
    int n = 1;
    if (options->ports && snprintf(ports, sizeof(ports), "--ports=%s", options->ports) >= (int)sizeof(ports))
        return usage_error(options->command, "--ports: longer than %d bytes", (int)sizeof(ports) - 9);
    if (options->llm && snprintf(llm, sizeof(llm), "--for=%s", options->llm) >= (int)sizeof(llm))
        return usage_error(options->command, "--for: longer than %d bytes", (int)sizeof(llm) - 7);
    if (options->json)
        arguments[n++] = json;
    if (options->ports)
        arguments[n++] = ports;
    if (options->llm)
        arguments[n++] = llm;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return complain(options->command, "libcurl cannot be used");
    int status = lua_main(options->command, "deputy.discover", n, arguments, lent);
    curl_global_cleanup();
    return status;
}
