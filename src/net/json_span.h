/* net/json_span.h - where a top-level member of a JSON object stands in the bytes (RFC 8259), found without a tree.
 *
 * yajl does the lexing: one linear pass, depth at most 512, duplicates of the wanted member seen, nothing decoded but
 * what is asked for. Its memory is a few KiB on the stack: nothing here calls malloc. Stricter than yajl where RFC 8259
 * is: UTF-8 as in RFC 3629 (no overlong forms), no vertical tab or form feed as white space. */
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

/* Looks for n members in text. DEPUTY_OK; DEPUTY_EINVAL when text is not one JSON object (*offset, if given, says where
 * it went wrong); DEPUTY_ELIMIT when nested deeper than 512. After an error nothing in members counts. An escaped
 * spelling of a name ("mod\u0065l") is that name. Of several of the same name the last one is reported. */
int json_span_find(const char *text, size_t len, struct json_member *members, size_t n, size_t *offset);

/* Calls each for every element of a JSON array, in order: its value's bytes are [start, end) of text. Codes as above;
 * an error can come after some elements were handed over. */
typedef void (*json_element_fn)(void *user, enum json_kind kind, size_t start, size_t end);
int json_span_each(const char *text, size_t len, json_element_fn each, void *user);

/* Decodes the JSON string [start, end) of text, quotes included, into out (size bytes, NUL added). Length, or -1 when
 * it does not fit, holds a NUL or half a surrogate pair, or is not a string. */
long json_span_string(const char *text, size_t start, size_t end, char *out, size_t size);

/* Writes s as a JSON string, quotes included, NUL added. Bytes that are not UTF-8 become U+FFFD. Length, or -1 when it
 * does not fit. */
long json_quote(const char *s, char *out, size_t size);

#endif
