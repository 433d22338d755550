#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

void *pool_take(struct pool *pool, size_t zeroed)
{
    void *block = pool->n > 0 ? pool->kept[--pool->n] : malloc(pool->size);
    if (block)
        memset(block, 0, zeroed);
    return block;
}

void pool_give(struct pool *pool, void *block)
{
    if (pool->n < POOL_KEPT && block)
        pool->kept[pool->n++] = block;
    else
        free(block);
}

void pool_empty(struct pool *pool)
{
    while (pool->n > 0)
        free(pool->kept[--pool->n]);
}
