/* managed/ring.h - the last bytes of what has no end. */
#ifndef MANAGED_RING_H
#define MANAGED_RING_H

#include <stddef.h>

enum { RING_BYTES = 64 << 10 };

struct ring {
    size_t at, len; /* at: where the next byte goes */
    char bytes[RING_BYTES];
};

void ring_add(struct ring *ring, const char *bytes, size_t len);

/* Copies the last ones, at most size, oldest first. Returns how many. */
size_t ring_copy(const struct ring *ring, char *to, size_t size);

#endif
