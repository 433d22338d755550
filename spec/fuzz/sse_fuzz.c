/* What a stream means does not depend on how its bytes are cut, nor an event's meaning on what was skipped before it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "deputy.h"
#include "net/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { MAX_EVENT = 300 };

static void demand(int truth)
{
    if (!truth) {
        abort();
    }
}

/* Returns where output began. The first bytes of the input decide how it is cut. */
static size_t feed(struct sse *sse, const char *text, size_t len, const uint8_t *cuts, size_t n_cuts)
{
    size_t at = 0, output_at = SIZE_MAX;

    sse_init(sse, MAX_EVENT);
    for (size_t i = 0; at < len; i++) {
        size_t n = n_cuts > 0 ? cuts[i % n_cuts] % 16U + 1U : len, here = SIZE_MAX;
        char *piece;

        n = n < len - at ? n : len - at;
        piece = malloc(n);
        demand(piece != NULL);
        memcpy(piece, text + at, n);
        demand(sse_feed(sse, piece, n, &here) == DEPUTY_OK);
        free(piece);
        if (here != SIZE_MAX) {
            demand(output_at == SIZE_MAX && here > 0 && here <= n && sse->output);
            output_at = at + here;
        }
        at += n;
    }
    demand(sse->output == (output_at != SIZE_MAX));
    demand(sse->len <= MAX_EVENT && sse->size <= MAX_EVENT);
    return output_at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sse whole, cut;
    size_t n_cuts = len < 4 ? len : 4, whole_at, cut_at;
    const char *text = (const char *)data + n_cuts;
    char code[48];
    int status;

    len -= n_cuts;
    whole_at = feed(&whole, text, len, NULL, 0);
    cut_at = feed(&cut, text, len, data, n_cuts);
    demand(whole_at == cut_at);
    demand(whole.output == cut.output && whole.error == cut.error && whole.finished == cut.finished);
    demand(whole.done == cut.done && whole.status == cut.status && strcmp(whole.code, cut.code) == 0);
    demand(strlen(whole.code) < sizeof(whole.code));
    demand(whole.status == 0 || (whole.error && whole.status >= 400 && whole.status <= 599));
    sse_free(&whole);
    sse_free(&cut);

    demand(sse_meaning("", text, len, code, &status) == SSE_ERROR || (code[0] == '\0' && status == 0));
    return 0;
}
