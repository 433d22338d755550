/* base/arena.h - blocks of a short life, all given back at once. The heap keeps small blocks in many places for later,
 * so that what was large for a moment stays large; here they lie together in chunks that go back whole. One thread. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

enum { ARENA_SMALL = 1024, ARENA_UNIT = 16 };

struct arena {
    struct arena_chunk *chunks;
    char *at;                                  /* what is left of the newest chunk */
    size_t left;                               /* bytes there */
    void *spare[ARENA_SMALL / ARENA_UNIT + 1]; /* given back, by size */
};

/* As realloc: NULL when out of memory, the block stays then; it can always become smaller. size 0 gives it back. Blocks
 * over ARENA_SMALL bytes have their own memory from the heap. All zero is an empty arena. */
void *arena_resize(struct arena *arena, void *block, size_t size);

/* Gives back all that lies in chunks. Larger blocks must have been given back before. */
void arena_empty(struct arena *arena);

#endif
