/* failing_malloc.h - lets a test say which allocation fails, and counts the blocks that are not given back.
 *
 * For one test file; link with -Wl,--wrap=malloc,--wrap=realloc,--wrap=calloc,--wrap=strdup,--wrap=free. Only code that
 * is linked into the test is covered, shared libraries are not. Any thread may allocate. */
#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_calloc(size_t n, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_calloc(size_t n, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *block);

static atomic_long allocations; /* so far */
static atomic_long live_blocks;
static long fail_at; /* which one fails, from 1; 0: none */
static bool fail_on; /* and all after it */

static inline void fail_allocation(long number, bool and_on)
{
    allocations = 0;
    fail_at = number;
    fail_on = and_on;
}

static inline bool allocation_fails(void)
{
    long number = atomic_fetch_add(&allocations, 1) + 1;
    return fail_at > 0 && (number == fail_at || (fail_on && number > fail_at));
}

static inline void *count_block(void *block)
{
    if (block)
        atomic_fetch_add(&live_blocks, 1);
    return block;
}

void *__wrap_malloc(size_t size)
{
    return allocation_fails() ? NULL : count_block(__real_malloc(size));
}

void *__wrap_realloc(void *old, size_t size)
{
    if (allocation_fails())
        return NULL;
    return old ? __real_realloc(old, size) : count_block(__real_realloc(NULL, size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return allocation_fails() ? NULL : count_block(__real_calloc(n, size));
}

char *__wrap_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = __wrap_malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

void __wrap_free(void *block)
{
    if (block)
        atomic_fetch_sub(&live_blocks, 1);
    __real_free(block);
}

#endif
