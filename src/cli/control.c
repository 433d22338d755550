#include "control.h"

#include "text.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REPLY = 32 << 20, CONNECT_MS = 1000, COMMAND_MS = 5000 };

static size_t take_bytes(char *bytes, size_t size, size_t n, void *user)
{
    return text_add(user, bytes, size * n, MAX_REPLY) ? size * n : 0;
}

/* The socket's path, or NULL. */
static const char *path_of(const struct config *config, struct control_reply *reply)
{
    const char *address = config->gateway.control;
    if (address && strncmp(address, "unix:", 5) == 0)
        return address + 5;
    snprintf(reply->problem, sizeof(reply->problem),
             "no control socket is configured: XDG_RUNTIME_DIR is not set, and gateway.control names none");
    return NULL;
}

static CURLcode transfer(CURL *easy, const char *socket, const char *method, const char *path, uint32_t timeout_ms,
                         struct text *body)
{
    char url[1024];
    snprintf(url, sizeof(url), "http://deputy%s", path);
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, socket);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, body);
    if (strcmp(method, "POST") == 0)
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
    return curl_easy_perform(easy);
}

static enum control_result read_reply(CURL *easy, const struct text *body, struct control_reply *reply)
{
    char why[256] = "";
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    reply->status = (int)status;
    reply->json = yajl_tree_parse(body->bytes ? body->bytes : "", why, sizeof(why));
    if (reply->json)
        return CONTROL_ANSWERED;
    snprintf(reply->problem, sizeof(reply->problem), "expected JSON, got something else with status %ld", status);
    return CONTROL_FAILED;
}

enum control_result control_ask(const struct config *config, const char *method, const char *path, uint32_t timeout_ms,
                                struct control_reply *reply)
{
    struct text body = {0};
    enum control_result result = CONTROL_FAILED;
    memset(reply, 0, sizeof(*reply));
    const char *socket = path_of(config, reply);
    if (!socket)
        return CONTROL_NO_SOCKET;
    CURL *easy = curl_easy_init();
    CURLcode code = easy ? transfer(easy, socket, method, path, timeout_ms, &body) : CURLE_OUT_OF_MEMORY;
    if (code == CURLE_OK)
        result = read_reply(easy, &body, reply);
    else if (code == CURLE_COULDNT_CONNECT)
        result = CONTROL_NOBODY;
    if (code != CURLE_OK)
        snprintf(reply->problem, sizeof(reply->problem), "%.300s: %s", config->gateway.control,
                 code == CURLE_COULDNT_CONNECT ? "nobody answers" : curl_easy_strerror(code));
    curl_easy_cleanup(easy);
    text_free(&body);
    return result;
}

enum control_result control_command(const struct config *config, const char *provider, const char *verb,
                                    struct control_reply *reply)
{
    char path[600];
    char *escaped = curl_easy_escape(NULL, provider, 0);
    int n = snprintf(path, sizeof(path), "/providers/%s/%s", escaped ? escaped : "", verb);
    curl_free(escaped);
    if (escaped && n > 0 && (size_t)n < sizeof(path))
        return control_ask(config, "POST", path, COMMAND_MS, reply);
    memset(reply, 0, sizeof(*reply));
    snprintf(reply->problem, sizeof(reply->problem), "the provider's name is too long");
    return CONTROL_FAILED;
}

void control_free(struct control_reply *reply)
{
    yajl_tree_free(reply->json);
    reply->json = NULL;
}

bool control_is_same(const struct config *config, const struct control_reply *reply)
{
    const char *theirs = control_text(reply->json, "config");
    return theirs && config->gateway.config_file && strcmp(theirs, config->gateway.config_file) == 0;
}

/* ---- what is in it ---------------------------------------------------------------------------------------------- */

static yajl_val member(yajl_val json, const char *name, yajl_type type)
{
    const char *path[] = {name, NULL};
    return json ? yajl_tree_get(json, path, type) : NULL;
}

const char *control_text(yajl_val json, const char *name)
{
    return YAJL_GET_STRING(member(json, name, yajl_t_string));
}

double control_number(yajl_val json, const char *name, double fallback)
{
    yajl_val value = member(json, name, yajl_t_number);
    if (!value)
        return fallback;
    return YAJL_IS_DOUBLE(value) ? YAJL_GET_DOUBLE(value) : fallback;
}

bool control_flag(yajl_val json, const char *name)
{
    return YAJL_IS_TRUE(member(json, name, yajl_t_any));
}

size_t control_list(yajl_val json, const char *name, yajl_val **items)
{
    yajl_val value = member(json, name, yajl_t_array);
    *items = value ? value->u.array.values : NULL;
    return value ? value->u.array.len : 0;
}
