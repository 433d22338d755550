/* jemalloc, except where a sanitizer brings an allocator of its own (Makefile, MALLOC): with glibc's, what outlives a
 * reload pins a heap that has grown with two configurations at once, and a fresh connection costs a tenth more. */
#include "relay/memory.h"

#ifdef DEPUTY_JEMALLOC
#include <jemalloc/jemalloc.h>
#include <stdbool.h>
#include <stddef.h>

/* jemalloc looks for this name before main begins (its manual, TUNING). Free pages go back after half a second. */
__attribute__((visibility("default"))) const char *malloc_conf = "dirty_decay_ms:500,muzzy_decay_ms:0";

#define NAME_OF(number) #number
#define PURGE(arenas)   "arena." NAME_OF(arenas) ".purge"

/* Without a thread of its own it looks at the time only when somebody allocates: one that idles kept what it had. */
void memory_begin(void)
{
    bool on = true;
    mallctl("background_thread", NULL, NULL, &on, sizeof(on));
}

void memory_settle(void)
{
    mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
}

void memory_trim(void)
{
    mallctl(PURGE(MALLCTL_ARENAS_ALL), NULL, NULL, NULL, 0);
}
#else
#include <malloc.h>

void memory_begin(void)
{
}

void memory_settle(void)
{
}

void memory_trim(void)
{
    malloc_trim(0);
}
#endif
