#include "managed/ring.h"

#include <string.h>

void ring_add(struct ring *ring, const char *bytes, size_t len)
{
    if (len > RING_BYTES) {
        bytes += len - RING_BYTES;
        len = RING_BYTES;
    }
    size_t first = RING_BYTES - ring->at < len ? RING_BYTES - ring->at : len;
    memcpy(ring->bytes + ring->at, bytes, first);
    memcpy(ring->bytes, bytes + first, len - first);
    ring->at = (ring->at + len) % RING_BYTES;
    ring->len = ring->len + len < RING_BYTES ? ring->len + len : RING_BYTES;
}

size_t ring_copy(const struct ring *ring, char *to, size_t size)
{
    size_t len = ring->len < size ? ring->len : size;
    size_t from = (ring->at + RING_BYTES - len) % RING_BYTES;
    size_t first = RING_BYTES - from < len ? RING_BYTES - from : len;
    memcpy(to, ring->bytes + from, first);
    memcpy(to + first, ring->bytes, len - first);
    return len;
}
