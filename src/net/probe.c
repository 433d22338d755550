#include "net/probe.h"

#include "net/http.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { DEFAULT_TIMEOUT_MS = 2000, BODY_MAX = 65536 };

struct probe {
    struct http_transfer *transfer;
    void *user;
    void (*on_answer)(void *user, const deputy_probe_answer *answer);
    uint64_t start_us;
    deputy_probe_answer answer;
    size_t body_len;
    bool two_types;
};

static void read_type(const char *value, char *out, size_t size)
{
    size_t n = 0;
    for (const char *c = value; *c && *c != ';' && n + 1 < size; c++)
        if (*c != ' ' && *c != '\t')
            out[n++] = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
    out[n] = '\0';
}

/* A comma that no quoted parameter holds: two fields that were joined on the way. So may be what follows a quote that
 * never ends. */
static bool is_list(const char *value)
{
    bool quoted = false;
    for (const char *c = value; *c; c++) {
        if (*c == '"')
            quoted = !quoted;
        else if (quoted && *c == '\\' && c[1])
            c++;
        else if (!quoted && *c == ',')
            return true;
    }
    return quoted;
}

/* Two types in one reply: which one counts is anybody's guess, and a page must not pass as something else. */
static void on_head(void *user, int status, const deputy_header *headers, size_t n)
{
    (void)status;
    struct probe *probe = user;
    char type[sizeof probe->answer.content_type];
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(headers[i].name, "Content-Type") != 0)
            continue;
        read_type(headers[i].value, type, sizeof type);
        if (strchr(type, ',') || is_list(headers[i].value) ||
            (probe->answer.content_type[0] && strcmp(probe->answer.content_type, type) != 0))
            probe->two_types = true;
        memcpy(probe->answer.content_type, type, sizeof type);
    }
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    (void)bytes;
    struct probe *probe = user;
    probe->body_len += len;
    return probe->body_len <= BODY_MAX ? DEPUTY_OK : DEPUTY_ELIMIT;
}

static deputy_probe_kind kind_of(enum http_end end)
{
    switch (end) {
    case HTTP_COMPLETE:
        return DEPUTY_PROBE_OK;
    case HTTP_TIMEOUT:
        return DEPUTY_PROBE_TIMEOUT;
    case HTTP_DNS:
        return DEPUTY_PROBE_DNS;
    case HTTP_TLS:
        return DEPUTY_PROBE_TLS;
    case HTTP_LIMIT:
    case HTTP_STOPPED:
        return DEPUTY_PROBE_LIMIT;
    case HTTP_PROTOCOL:
    case HTTP_CUT:
        return DEPUTY_PROBE_PROTOCOL;
    default:
        return DEPUTY_PROBE_CONNECT;
    }
}

static void on_end(void *user, const struct http_result *result)
{
    struct probe *probe = user;
    deputy_probe_answer answer = probe->answer;
    answer.kind = kind_of(result->end);
    if (answer.kind == DEPUTY_PROBE_OK && (probe->two_types || result->unframed))
        answer.kind = DEPUTY_PROBE_PROTOCOL;
    if (answer.kind == DEPUTY_PROBE_OK)
        answer.status = result->status;
    else
        answer.content_type[0] = '\0';
    answer.us = loop_now_us() - probe->start_us;
    void *owner = probe->user;
    void (*on_answer)(void *, const deputy_probe_answer *) = probe->on_answer;
    free(probe);
    on_answer(owner, &answer);
}

static int send_probe(struct loop *loop, const struct probe_request *request, struct probe *probe)
{
    char *url;
    int code = url_expand(request->central_url, request->path, request->llm, NULL, &url, NULL);
    if (code != DEPUTY_OK)
        return code;
    struct http_request http = {
        .method = request->get ? "GET" : "HEAD",
        .url = url,
        .bearer = request->token,
        .ca_file = request->ca_file,
        .connect_ms = request->connect_ms,
        .total_ms = request->timeout_ms ? request->timeout_ms : DEFAULT_TIMEOUT_MS,
        .max_header_bytes = request->max_header_bytes,
        .fresh = true,
        .user = probe,
        .on_head = on_head,
        .on_bytes = on_bytes,
        .on_end = on_end,
    };
    code = http_start(loop, &http, &probe->transfer, NULL);
    free(url);
    return code;
}

int probe_start(struct loop *loop, const struct probe_request *request, struct probe **out, deputy_probe_answer *answer)
{
    *out = NULL;
    *answer = (deputy_probe_answer){.kind = DEPUTY_PROBE_NO_TOKEN};
    if (!url_token_ok(request->token))
        return DEPUTY_OK;
    answer->kind = DEPUTY_PROBE_CONNECT;
    if (!request->central_url)
        return DEPUTY_OK;
    struct probe *probe = calloc(1, sizeof *probe);
    if (!probe)
        return DEPUTY_ENOMEM;
    probe->user = request->user;
    probe->on_answer = request->on_answer;
    probe->start_us = loop_now_us();
    int code = send_probe(loop, request, probe);
    if (code == DEPUTY_OK) {
        *out = probe;
        return DEPUTY_OK;
    }
    free(probe);
    if (code == DEPUTY_ENOMEM)
        return code;
    answer->kind = DEPUTY_PROBE_PROTOCOL;
    return DEPUTY_OK;
}

void probe_cancel(struct probe *probe)
{
    if (!probe)
        return;
    http_cancel(probe->transfer);
    free(probe);
}
