#include "base/arena.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Mapped, not from the heap: once a heap got a block of this size back it keeps the next one for itself. */
enum { CHUNK = 256 << 10 };

struct arena_chunk {
    struct arena_chunk *next;
    _Alignas(ARENA_UNIT) char bytes[];
};

/* Before each block. room over ARENA_SMALL: it has its own memory, whatever was asked for since. */
struct head {
    _Alignas(ARENA_UNIT) size_t room;
};

static struct head *head_of(void *block)
{
    return (struct head *)block - 1;
}

static void *take_small(struct arena *arena, size_t size)
{
    size_t n = (size + ARENA_UNIT - 1) / ARENA_UNIT, bytes = sizeof(struct head) + n * ARENA_UNIT;
    void *block = arena->spare[n];
    if (block) {
        arena->spare[n] = *(void **)block;
        return block;
    }
    if (arena->left < bytes) {
        struct arena_chunk *chunk = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED)
            return NULL;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->at = chunk->bytes;
        arena->left = CHUNK - sizeof(*chunk);
    }
    struct head *head = (struct head *)(void *)arena->at;
    arena->at += bytes;
    arena->left -= bytes;
    head->room = n * ARENA_UNIT;
    return head + 1;
}

static void *resize_large(struct head *head, size_t size)
{
    size_t room = size > ARENA_SMALL ? size : ARENA_SMALL + 1;
    struct head *moved = realloc(head, sizeof(*head) + room);
    if (!moved)
        return head && size <= head->room ? head + 1 : NULL;
    moved->room = room;
    return moved + 1;
}

static void give(struct arena *arena, void *block)
{
    size_t n = head_of(block)->room / ARENA_UNIT;
    if (head_of(block)->room > ARENA_SMALL) {
        free(head_of(block));
        return;
    }
    *(void **)block = arena->spare[n];
    arena->spare[n] = block;
}

void *arena_resize(struct arena *arena, void *block, size_t size)
{
    size_t room = block ? head_of(block)->room : 0;
    if (size == 0) {
        if (block)
            give(arena, block);
        return NULL;
    }
    if (room > ARENA_SMALL)
        return resize_large(head_of(block), size);
    if (size <= room)
        return block;
    void *moved = size > ARENA_SMALL ? resize_large(NULL, size) : take_small(arena, size);
    if (moved && block) {
        memcpy(moved, block, room);
        give(arena, block);
    }
    return moved;
}

void arena_empty(struct arena *arena)
{
    while (arena->chunks) {
        struct arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        munmap(chunk, CHUNK);
    }
    memset(arena, 0, sizeof(*arena));
}
