/* base/pool.h - blocks of one size, given back for the next one: a run and its calls are larger than what malloc keeps
 * at hand. Not shared between threads. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stddef.h>

enum { POOL_KEPT = 64 };

struct pool {
    size_t size; /* of each block, in bytes */
    size_t n;
    void *kept[POOL_KEPT];
};

/* A block whose first `zeroed` bytes are zero, or NULL when out of memory. */
void *pool_take(struct pool *pool, size_t zeroed);
void pool_give(struct pool *pool, void *block); /* NULL is allowed */
void pool_empty(struct pool *pool);

#endif
