#include "gateway/models.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include <yajl/yajl_gen.h>
#include <yajl/yajl_parse.h>

enum { MAX_MEMORY = 32 << 20, MAX_DEPTH = 64 };

/* ---- memory for yajl: it never looks at what its malloc returns, so that ours never returns without any
 * ------------------ */

struct block {
    struct block *prev, *next;
    size_t size;
    max_align_t bytes[];
};

struct heap {
    struct block *all;
    size_t used;
    jmp_buf out;
};

static void *heap_realloc(void *ctx, void *old, size_t size)
{
    struct heap *heap = ctx;
    struct block *was = old ? (struct block *)((char *)old - offsetof(struct block, bytes)) : NULL;
    size_t had = was ? was->size : 0;
    if (size > MAX_MEMORY || heap->used - had > MAX_MEMORY - size)
        longjmp(heap->out, 1);
    struct block *block = malloc(sizeof(*block) + size);
    if (!block)
        longjmp(heap->out, 1);
    if (was) {
        memcpy(block->bytes, was->bytes, had < size ? had : size);
        DL_DELETE(heap->all, was);
        free(was);
    }
    block->size = size;
    DL_PREPEND(heap->all, block);
    heap->used += size - had;
    return block->bytes;
}

static void *heap_malloc(void *ctx, size_t size)
{
    return heap_realloc(ctx, NULL, size);
}

/* All goes together in the end. */
static void heap_free(void *ctx, void *old)
{
    (void)ctx;
    (void)old;
}

static void heap_empty(struct heap *heap)
{
    struct block *block, *next;
    DL_FOREACH_SAFE (heap->all, block, next)
        free(block);
    heap->all = NULL;
}

/* ---- events of the parser become those of the writer
 * --------------------------------------------------------------------- */

struct marking {
    struct heap heap;
    const deputy_engine *engine;
    yajl_gen gen;
    int depth;
    bool in_data, at_data, at_id, found_data;
    char id[DEPUTY_NAME_SIZE];
};

static int written(yajl_gen_status status)
{
    return status == yajl_gen_status_ok;
}

static int on_null(void *user)
{
    return written(yajl_gen_null(((struct marking *)user)->gen));
}

static int on_boolean(void *user, int value)
{
    return written(yajl_gen_bool(((struct marking *)user)->gen, value));
}

static int on_number(void *user, const char *text, size_t len)
{
    return written(yajl_gen_number(((struct marking *)user)->gen, text, len));
}

static int on_string(void *user, const unsigned char *text, size_t len)
{
    struct marking *m = user;
    if (m->at_id && m->depth == 3 && m->in_data && len < sizeof(m->id) && !memchr(text, 0, len)) {
        memcpy(m->id, text, len);
        m->id[len] = '\0';
    }
    return written(yajl_gen_string(m->gen, text, len));
}

static int on_key(void *user, const unsigned char *text, size_t len)
{
    struct marking *m = user;
    if (m->depth == 1)
        m->at_data = len == 4 && memcmp(text, "data", 4) == 0;
    m->at_id = len == 2 && memcmp(text, "id", 2) == 0;
    return written(yajl_gen_string(m->gen, text, len));
}

static int on_start_map(void *user)
{
    struct marking *m = user;
    if (++m->depth > MAX_DEPTH)
        return 0;
    if (m->depth == 3)
        m->id[0] = '\0';
    return written(yajl_gen_map_open(m->gen));
}

static int on_end_map(void *user)
{
    static const unsigned char key[] = "x_deputy_stand_in";
    struct marking *m = user;
    const char *stand_in = m->depth == 3 && m->in_data && m->id[0] ? deputy_failover_for(m->engine, m->id) : NULL;
    m->depth--;
    if (stand_in && (!written(yajl_gen_string(m->gen, key, sizeof(key) - 1)) ||
                     !written(yajl_gen_string(m->gen, (const unsigned char *)stand_in, strlen(stand_in)))))
        return 0;
    return written(yajl_gen_map_close(m->gen));
}

static int on_start_array(void *user)
{
    struct marking *m = user;
    if (++m->depth > MAX_DEPTH || m->depth == 1)
        return 0;
    if (m->depth == 2 && m->at_data)
        m->in_data = m->found_data = true;
    return written(yajl_gen_array_open(m->gen));
}

static int on_end_array(void *user)
{
    struct marking *m = user;
    if (m->depth-- == 2)
        m->in_data = false;
    return written(yajl_gen_array_close(m->gen));
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_start_map = on_start_map,
    .yajl_map_key = on_key,
    .yajl_end_map = on_end_map,
    .yajl_start_array = on_start_array,
    .yajl_end_array = on_end_array,
};

/* May longjmp to heap.out. */
static bool mark(struct marking *m, const char *text, size_t len, struct draft *to)
{
    yajl_alloc_funcs memory = {heap_malloc, heap_realloc, heap_free, &m->heap};
    const unsigned char *bytes;
    size_t n;
    m->gen = yajl_gen_alloc(&memory);
    yajl_handle parser = yajl_alloc(&callbacks, &memory, m);
    if (yajl_parse(parser, (const unsigned char *)text, len) != yajl_status_ok ||
        yajl_complete_parse(parser) != yajl_status_ok || !m->found_data ||
        yajl_gen_get_buf(m->gen, &bytes, &n) != yajl_gen_status_ok)
        return false;
    draft_add(to, bytes, n);
    return !to->failed;
}

bool models_mark(const deputy_engine *engine, const char *text, size_t len, struct draft *to)
{
    struct marking *m = calloc(1, sizeof(*m));
    volatile bool ok = false;
    if (!m)
        return false;
    m->engine = engine;
    if (setjmp(m->heap.out) == 0)
        ok = mark(m, text, len, to);
    heap_empty(&m->heap);
    free(m);
    return ok;
}
