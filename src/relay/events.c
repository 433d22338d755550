#include "relay/events.h"

#include <string.h>

static void end_line(struct events *e)
{
    e->in_event = e->line_len > 0;
    e->line_len = 0;
}

void events_feed(struct events *e, const char *bytes, size_t len)
{
    const char *end = bytes + len;
    while (bytes < end) {
        if (e->after_cr && *bytes == '\n') { /* one break, not two */
            e->after_cr = false;
            bytes++;
            continue;
        }
        e->after_cr = false;
        if (*bytes == '\n' || *bytes == '\r') {
            e->after_cr = *bytes == '\r';
            end_line(e);
            bytes++;
            continue;
        }
        const char *stop = memchr(bytes, '\n', (size_t)(end - bytes));
        const char *cr = memchr(bytes, '\r', (size_t)((stop ? stop : end) - bytes));
        stop = cr ? cr : stop ? stop : end;
        size_t n = (size_t)(stop - bytes), kept = e->line_len < EVENTS_LINE_KEPT ? e->line_len : EVENTS_LINE_KEPT;
        size_t more = n < EVENTS_LINE_KEPT - kept ? n : EVENTS_LINE_KEPT - kept;
        memcpy(e->line + kept, bytes, more);
        e->line_len += n;
        bytes = stop;
    }
}

/* Libraries look only at how the data begins. */
static bool says_done(const struct events *e)
{
    static const char done[] = "[DONE]";
    size_t kept = e->line_len < EVENTS_LINE_KEPT ? e->line_len : EVENTS_LINE_KEPT;
    if (kept < 5 || memcmp(e->line, "data:", 5) != 0)
        return false;
    const char *data = e->line + 5;
    kept -= 5;
    if (kept > 0 && *data == ' ') {
        data++;
        kept--;
    }
    return kept >= sizeof(done) - 1 && memcmp(data, done, sizeof(done) - 1) == 0;
}

const char *events_break(const struct events *e)
{
    if (says_done(e))
        return NULL;
    if (e->line_len > 0)
        return "\n\n";
    return e->in_event ? "\n" : "";
}
