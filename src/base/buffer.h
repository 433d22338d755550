/* base/buffer.h - bytes that grow up to a bound and are taken from the front. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stddef.h>

struct buffer {
    char *data;
    size_t start, len, size, max;
};

/* Allocates nothing. After buffer_free the buffer is empty and can be used again. */
void buffer_init(struct buffer *b, size_t max);
void buffer_free(struct buffer *b);

/* Appends all of it or nothing. DEPUTY_OK, DEPUTY_ELIMIT (over max), DEPUTY_ENOMEM. Grows by doubling. */
int buffer_append(struct buffer *b, const void *bytes, size_t len);

/* The bytes held; valid until the buffer changes; never NULL. */
const char *buffer_bytes(const struct buffer *b);
size_t buffer_len(const struct buffer *b);

/* Drops n bytes from the front (n <= buffer_len). Memory is given back when it becomes empty. */
void buffer_consume(struct buffer *b, size_t n);

/* Hands the bytes over, ended by a NUL that len does not count: malloc'ed, the caller's to free. The buffer is
 * empty then. NULL when out of memory: the buffer keeps its bytes. */
char *buffer_take(struct buffer *b, size_t *len);

#endif
