#include "gateway/page.h"

#include "gateway/facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { NONCE_BYTES = 12, NONCE_TEXT = 2 * NONCE_BYTES, MAX_DATA = 4 << 20, PATIENCE_MS = 300 };

/* In the document this stands where the nonce of each reply goes. */
static const char placeholder[] = "NONCE-NONCE-NONCE-NONCE-";
_Static_assert(sizeof(placeholder) - 1 == NONCE_TEXT, "the nonce is put over it");

__asm__(".section .rodata\n"
        ".global gateway_page_html, gateway_page_html_end\n"
        ".hidden gateway_page_html, gateway_page_html_end\n"
        "gateway_page_html: .incbin \"src/gateway/page.html\"\n"
        "gateway_page_html_end: .byte 0\n"
        ".text\n");
extern const char gateway_page_html[], gateway_page_html_end[];

/* False without randomness: then there is no page rather than one whose scripts others could add to. */
static bool make_nonce(char out[NONCE_TEXT + 1])
{
    unsigned char random[NONCE_BYTES];
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
        return false;
    for (size_t i = 0; i < NONCE_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", random[i]);
    return true;
}

static void put_nonce(char *text, const char *nonce)
{
    for (char *at = text; (at = strstr(at, placeholder)) != NULL; at += NONCE_TEXT)
        memcpy(at, nonce, NONCE_TEXT);
}

void page_reply(struct worker *w, struct http1_exchange *exchange)
{
    char nonce[NONCE_TEXT + 1], policy[256];
    size_t len = (size_t)(gateway_page_html_end - gateway_page_html);
    char *text = make_nonce(nonce) ? malloc(len + 1) : NULL;
    (void)w;
    if (!text) {
        http1_reply(exchange, 503, NULL, 0, NULL, 0);
        return;
    }
    memcpy(text, gateway_page_html, len);
    text[len] = '\0';
    put_nonce(text, nonce);
    snprintf(policy, sizeof(policy),
             "default-src 'none'; script-src 'nonce-%s'; style-src 'nonce-%s'; connect-src 'self'; base-uri 'none'; "
             "form-action 'none'; frame-ancestors 'none'",
             nonce, nonce);
    const struct http1_header headers[] = {
        {"content-type", "text/html; charset=utf-8"},    {"content-security-policy", policy},
        {"x-content-type-options", "nosniff"},           {"referrer-policy", "no-referrer"},
        {"cross-origin-resource-policy", "same-origin"}, {"cache-control", "no-store"},
    };
    http1_reply(exchange, 200, headers, sizeof(headers) / sizeof(headers[0]), text, len);
    free(text);
}

/* ---- what it shows ---------------------------------------------------------------------------------------------- */

static void reply_with_data(struct worker *w, struct http1_exchange *exchange)
{
    static const struct http1_header headers[] = {
        {"content-type", "application/json"},
        {"cache-control", "no-store"},
        {"x-content-type-options", "nosniff"},
        {"cross-origin-resource-policy", "same-origin"},
    };
    struct draft text = DRAFT(MAX_DATA);
    text.for_html = true;
    bool local = http1_is_local(exchange);
    draft_print(&text, "{\"version\":\"%s\",\"draining\":%s,\"listen\":", deputy_version(),
                w->state == WORKER_SERVING ? "false" : "true");
    draft_json(&text, w->server ? http1_address(w->server) : NULL);
    draft_word(&text, ",");
    facts_write_json(w, local ? FACTS_FOR_OPERATORS : FACTS_FOR_CALLERS, &text);
    draft_word(&text, ",");
    metrics_write_json(w->gateway->metrics, local, &text);
    draft_word(&text, "}\n");
    http1_reply(exchange, text.failed ? 503 : 200, headers, sizeof(headers) / sizeof(headers[0]), text.text,
                text.failed ? 0 : text.len);
    draft_free(&text);
}

void page_data_reply(struct worker *w, struct http1_exchange *exchange)
{
    if (w->server)
        worker_report(w);
    survey_ask(&w->survey, PATIENCE_MS, exchange, reply_with_data);
}
