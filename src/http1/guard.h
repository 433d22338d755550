/* http1/guard.h - what RFC 9112 forbids and parsers let through, seen byte by byte: it does not matter how the bytes
 * are cut. Holds no memory. */
#ifndef HTTP1_GUARD_H
#define HTTP1_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http1/refusal.h"

/* RFC 9112 sections 2.2, 3 and 5: the request line and the header lines, each ended by CR LF. */
struct head_guard {
    uint8_t state;
    uint8_t n; /* of the bytes of a method or a version */
    char version[2];
    bool done;        /* the empty line was seen */
    uint32_t headers; /* so far */
};

void head_guard_init(struct head_guard *guard);

/* Looks at the next bytes. *used: how many belong to the head; all of them, unless done or refused. */
enum refusal head_guard_feed(struct head_guard *guard, unsigned max_headers, const char *bytes, size_t len,
                             size_t *used);

/* RFC 9112 section 7.1: all of a chunked body but its data. Whoever decodes the body says what is data. */
struct chunk_guard {
    uint8_t state;
    bool last; /* the size of this chunk is zero */
    uint16_t line;
    uint32_t trailer;
};

void chunk_guard_init(struct chunk_guard *guard);
enum refusal chunk_guard_framing(struct chunk_guard *guard, size_t max_trailer, const char *bytes, size_t len);
enum refusal chunk_guard_data(const struct chunk_guard *guard); /* data is there: may it be? */
bool chunk_guard_done(const struct chunk_guard *guard);

/* RFC 9110 section 5.6.2, one byte or more */
bool is_token(const char *text);
/* RFC 9110 section 5.5: no control byte but the tab */
bool is_field_value(const char *text);
/* RFC 9110 section 7.2, by its characters alone */
bool is_host(const char *text, size_t len);

#endif
