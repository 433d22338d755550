/* net/sse.h - reads a stream of server-sent events (WHATWG HTML section 9.2) as it passes by, and says what each event
 * means for a completion: output, an error, the end, or nothing yet. It changes no byte.
 *
 * Understood: OpenAI chat completions, completions and responses; Anthropic messages. */
#ifndef NET_SSE_H
#define NET_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sse_meaning {
    SSE_NOTHING = 0, /* a comment, a role, an empty delta, a ping, something unknown */
    SSE_OUTPUT,      /* content, reasoning, a tool call, a refusal or audio that is not empty */
    SSE_ERROR,       /* an error in band */
    SSE_FINISH, /* the model says that it is done: finish_reason, response.completed, message_delta's stop_reason */
    SSE_DONE    /* nothing follows: [DONE], message_stop */
};

struct sse {
    /* what has been seen since sse_init */
    bool output;   /* stays false when an error came first */
    bool error;    /* with output: the error came after it. An event that is an error is nothing else besides. */
    bool finished; /* of several choices: each that has begun */
    bool done;
    char code[48]; /* of the first error: its "code" or "type"; may be empty */
    int status;    /* of the first error: an HTTP status that it names or that its code is known for, or 0 */

    /* private */
    bool cr, has_data, overflow;
    unsigned char state, field_len, bom;
    char field[6];
    char event[64];          /* the event's name */
    uint64_t choices, ended; /* a bit for each choice's index */
    char *data;              /* the event's data so far */
    size_t len, size, max_event;
};

/* max_event bounds what is kept of one event's data. A larger event counts as output from the byte that was too many
 * (no error is that large), or as an error when that is its name; the end of a response is known by its name too.
 * Allocates nothing. */
void sse_init(struct sse *sse, size_t max_event);
void sse_free(struct sse *sse);

/* Reads the next bytes and sets the flags above; how they are cut into calls makes no difference. *output_at (may be
 * NULL) is written only when this call turned `output` true: how many of these bytes had been read when it did.
 * DEPUTY_OK or DEPUTY_ENOMEM; after that only sse_free may be called. */
int sse_feed(struct sse *sse, const char *bytes, size_t len, size_t *output_at);

/* What one event's data means; event is its name or "". Of several meanings the first of ERROR, OUTPUT, DONE, FINISH.
 * code and status (either may be NULL) are always written: empty and 0 when it is no error. */
enum sse_meaning sse_meaning(const char *event, const char *data, size_t len, char code[48], int *status);

#endif
