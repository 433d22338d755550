/* cli/answer.h - takes the words of the assistant out of a chat completion: of a whole one, or of a stream of
 * server-sent events (WHATWG HTML section 9.2) as it comes. */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include "text.h"

/* All zero but for these two: nothing read. */
struct answer {
    void (*on_text)(void *user, const char *text, size_t len);
    void *user;
    bool any; /* on_text was called with something */

    /* private */
    struct text line, data;
    bool after_cr;
};

/* False when json is not one JSON value. */
bool answer_read(struct answer *answer, const char *json, size_t len);

/* The next bytes of a stream. False when an event is over 16 MiB, or without memory. */
bool answer_feed(struct answer *answer, const char *bytes, size_t len);
void answer_free(struct answer *answer);

#endif
