#include "managed/health.h"

#include "managed/drive.h"
#include "net/http.h"

#include <stdio.h>

static void on_end(void *user, const struct http_result *result)
{
    struct deputy_managed *m = user;
    char says[sizeof(m->look_says)];
    bool answered = result->status && (result->end == HTTP_COMPLETE || result->end == HTTP_STOPPED);
    m->look = NULL;
    if (answered)
        snprintf(says, sizeof(says), "status %d", result->status);
    else
        snprintf(says, sizeof(says), "%.*s", (int)sizeof(says) - 1, result->message);
    drive_looked(m, answered && result->status >= 200 && result->status <= 299, result->end == HTTP_CONNECT, says);
}

/* The status has said it all. */
static int on_bytes(void *user, const void *bytes, size_t len)
{
    (void)user, (void)bytes, (void)len;
    return DEPUTY_ECANCELED;
}

void health_look(struct deputy_managed *m, uint32_t ms)
{
    char url[1024];
    if (m->look)
        return;
    snprintf(url, sizeof(url), "http://127.0.0.1:%u%s", (unsigned)m->port, m->settings.health_path);
    struct http_request request = {
        .method = "GET",
        .url = url,
        .bearer = m->settings.api_key,
        .connect_ms = ms,
        .total_ms = ms,
        .fresh = true,
        .user = m,
        .on_bytes = on_bytes,
        .on_end = on_end,
    };
    if (http_start(m->owner->loop, &request, &m->look, NULL) != DEPUTY_OK)
        drive_looked(m, false, false, "out of memory");
}

void health_stop(struct deputy_managed *m)
{
    http_cancel(m->look);
    m->look = NULL;
}
