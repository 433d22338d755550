/* net/sse.h - reads a stream of server-sent events (WHATWG HTML section 9.2) as it passes by, and says what each event
 * means for a completion: output, an error, the end, or nothing yet. It changes no byte.
 *
 * Understood: OpenAI chat completions, completions and responses; Anthropic messages. */
#ifndef NET_SSE_H
#define NET_SSE_H

#include <stdbool.h>
#include <stddef.h>

enum sse_meaning {
    SSE_NOTHING = 0, /* a comment, a role, an empty delta, a ping, something unknown */
    SSE_OUTPUT,      /* content, reasoning, a tool call, a refusal or audio that is not empty */
    SSE_ERROR,       /* an error in band */
    SSE_FINISH,      /* the model says that it is done: finish_reason, response.completed, message_delta's stop_reason */
    SSE_DONE         /* nothing follows: [DONE], message_stop */
};

struct sse {
    char *line;          /* the event's data so far; bounded by max_event */
    size_t len, size, max_event;
    char event[64];      /* the event's name */
    bool cr, overflow, has_data, bol;
    char field[16];
    unsigned char field_len, state;
    bool output, error, finished, done; /* what has been seen since sse_init */
    char code[48];                      /* of the first error: its "code" or "type"; may be empty */
    int status;                         /* of the first error: an HTTP status it names, or 0 */
};

/* max_event bounds what is kept of one event's data; a larger event counts as output (no error is that large). */
void sse_init(struct sse *sse, size_t max_event);
void sse_free(struct sse *sse);

/* Reads the next bytes and sets the flags above. *output_at (may be NULL) is, when this call turned `output` true, how
 * many of these bytes had been read when it did. DEPUTY_OK or DEPUTY_ENOMEM. */
int sse_feed(struct sse *sse, const char *bytes, size_t len, size_t *output_at);

/* What one event's data means; event is its name or "". */
enum sse_meaning sse_meaning(const char *event, const char *data, size_t len, char code[48], int *status);

#endif
