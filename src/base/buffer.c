#include "base/buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "deputy.h"

enum { FIRST_SIZE = 512 };

void buffer_init(struct buffer *b, size_t max)
{
    *b = (struct buffer){.max = max};
}

void buffer_free(struct buffer *b)
{
    free(b->data);
    buffer_init(b, b->max);
}

static void move_to_front(struct buffer *b)
{
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
    }
}

static int make_room(struct buffer *b, size_t extra)
{
    size_t need = b->len + extra;
    /* a quarter over max, so that a full buffer that is consumed in small bites is not moved at each bite */
    size_t limit = b->max <= SIZE_MAX / 2 ? b->max + b->max / 4 : SIZE_MAX;
    size_t size = b->size <= limit / 2 ? b->size * 2 : limit;
    char *data;

    if (need <= b->size && b->start > 0 && b->start >= b->len / 4) {
        move_to_front(b);
        return DEPUTY_OK;
    }
    if (size < FIRST_SIZE && FIRST_SIZE <= limit) {
        size = FIRST_SIZE;
    }
    if (size < need) {
        size = need;
    }
    move_to_front(b);
    data = realloc(b->data, size);
    if (!data) {
        return need <= b->size ? DEPUTY_OK : DEPUTY_ENOMEM;
    }
    b->data = data;
    b->size = size;
    return DEPUTY_OK;
}

int buffer_append(struct buffer *b, const void *bytes, size_t len)
{
    if (len == 0) {
        return DEPUTY_OK;
    }
    if (b->len > b->max || len > b->max - b->len) {
        return DEPUTY_ELIMIT;
    }
    if (len > b->size - b->start - b->len) {
        int code = make_room(b, len);

        if (code != DEPUTY_OK) {
            return code;
        }
    }
    memcpy(b->data + b->start + b->len, bytes, len);
    b->len += len;
    return DEPUTY_OK;
}

const char *buffer_bytes(const struct buffer *b)
{
    return b->data ? b->data + b->start : "";
}

size_t buffer_len(const struct buffer *b)
{
    return b->len;
}

void buffer_consume(struct buffer *b, size_t n)
{
    if (n >= b->len) {
        buffer_free(b);
        return;
    }
    b->start += n;
    b->len -= n;
}

char *buffer_take(struct buffer *b, size_t *len)
{
    char *bytes;

    move_to_front(b);
    bytes = b->len < SIZE_MAX ? realloc(b->data, b->len + 1) : NULL;
    if (!bytes) {
        return NULL;
    }
    bytes[b->len] = '\0';
    *len = b->len;
    buffer_init(b, b->max);
    return bytes;
}
