/* failing_malloc.h - lets a test say which allocation fails.
 *
 * For one test file; link with -Wl,--wrap=malloc,--wrap=realloc,--wrap=calloc. Only code that is linked into the test
 * is covered, shared libraries are not. */
#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static long allocations; /* so far */
static long fail_at;     /* which one fails, from 1; 0: none */
static bool fail_on;     /* and all after it */

static inline void fail_allocation(long number, bool and_on)
{
    allocations = 0;
    fail_at = number;
    fail_on = and_on;
}

static inline bool allocation_fails(void)
{
    allocations++;
    return fail_at > 0 && (allocations == fail_at || (fail_on && allocations > fail_at));
}

void *__wrap_malloc(size_t size)
{
    return allocation_fails() ? NULL : __real_malloc(size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return allocation_fails() ? NULL : __real_realloc(old, size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return allocation_fails() ? NULL : __real_calloc(n, size);
}

#endif
