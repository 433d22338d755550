/* net/json_span.h - where a top-level member of a JSON object stands in the bytes (RFC 8259), found without a tree.
 *
 * yajl does the lexing: one linear pass, depth at most 512, duplicates of the wanted member seen, nothing decoded but
 * what is asked for. Its memory comes from a bounded arena; running out is an error, not an abort. */
#ifndef NET_JSON_SPAN_H
#define NET_JSON_SPAN_H

#include <stdbool.h>
#include <stddef.h>

enum json_kind { JSON_ABSENT = 0, JSON_NULL, JSON_BOOLEAN, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_member {
    const char *name;    /* in: unescaped, as the caller wants it */
    enum json_kind kind; /* out */
    size_t start, end;   /* out: the value's bytes are [start, end), quotes and brackets included */
    unsigned count;      /* out: how often the name stood at the top level; more than 1 is the caller's to refuse */
    bool truth;          /* out: JSON_BOOLEAN */
};

/* Looks for n members in text. DEPUTY_OK; DEPUTY_EINVAL when text is not one JSON object (*offset, if given, says where it
 * went wrong); DEPUTY_ELIMIT when nested deeper than 512; DEPUTY_ENOMEM. After an error nothing in members counts.
 * An escaped spelling of a name ("mod\u0065l") is that name. */
int json_span_find(const char *text, size_t len, struct json_member *members, size_t n, size_t *offset);

/* Decodes the JSON string [start, end) of text, quotes included, into out (size bytes, NUL added). Length, or -1 when it
 * does not fit, holds a NUL, or is not a string. */
long json_span_string(const char *text, size_t start, size_t end, char *out, size_t size);

/* Writes s as a JSON string, quotes included, NUL added. Length, or -1 when it does not fit. */
long json_quote(const char *s, char *out, size_t size);

#endif
