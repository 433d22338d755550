/* net/head.h - the head of an HTTP/1.1 reply, line by line as libcurl hands it over, read more strictly than libcurl
 * does: whatever leaves open what the reply says or where it ends is refused (RFC 9112 sections 4 to 6). */
#ifndef NET_HEAD_H
#define NET_HEAD_H

#include "deputy.h"

enum { HEAD_FIELDS_MAX = 256 /* fields in one head */, HEAD_FIRST = 512, HEAD_FEW = 24 };

/* Zeroed up to `first`, it is ready. Not to be moved. */
struct head {
    char *bytes; /* name NUL value NUL ... */
    size_t len, size, n_fields;
    long long content_length; /* -1: none */
    int status;
    bool open, chunked;
    bool framing; /* the field read last says where the body ends */
    char first[HEAD_FIRST];
};

enum head_line {
    HEAD_MORE,
    HEAD_DONE, /* the final head is whole; heads of 1xx replies are swallowed */
    HEAD_MALFORMED,
    HEAD_OVER, /* more than HEAD_FIELDS_MAX fields */
    HEAD_NO_MEMORY
};

/* Reads one line, line end included. Not after anything but HEAD_MORE. */
enum head_line head_read(struct head *head, const char *line, size_t len);

/* After HEAD_DONE: the n_fields fields, in `few` when they fit, else malloc'ed, the caller's; their strings live until
 * head_free. NULL when out of memory. */
deputy_header *head_fields(const struct head *head, deputy_header few[HEAD_FEW]);

/* Frees the fields; status and framing stay readable. */
void head_free(struct head *head);

/* Whether a body of this reply (not to HEAD) has neither length nor chunks: the connection's end ends it. */
bool head_unframed(const struct head *head);

/* A token (RFC 9110 section 5.6.2): methods and field names. */
bool head_token_ok(const char *s, size_t len);

/* Takes spaces and tabs off both ends. */
void head_trim(const char **s, size_t *len);

#endif
