#include "core/gate.h"

#include <string.h>
#include <strings.h>
#include <time.h>

uint64_t gate_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* A host's own probe function may hand over a type with its parameters. */
static bool is_page(const char *type)
{
    static const char *const pages[] = {"text/html", "application/xhtml+xml"};
    size_t len = strcspn(type, "; \t,");
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
        if (len == strlen(pages[i]) && strncasecmp(type, pages[i], len) == 0)
            return true;
    return false;
}

deputy_verdict gate_verdict(const deputy_probe_answer *answer)
{
    if (answer->kind != DEPUTY_PROBE_OK)
        return DEPUTY_UNREACHABLE;
    if (answer->status == 401 || answer->status == 403)
        return DEPUTY_FORBIDDEN;
    if (answer->status < 200 || answer->status > 299)
        return DEPUTY_UNREACHABLE;
    /* a captive portal or a catch-all page says 200 to everything */
    if (is_page(answer->content_type))
        return DEPUTY_UNREACHABLE;
    return DEPUTY_ALLOWED;
}

deputy_verdict gate_stricter(deputy_verdict a, deputy_verdict b)
{
    if (a == DEPUTY_ALLOWED && b == DEPUTY_ALLOWED)
        return DEPUTY_ALLOWED;
    if (a == DEPUTY_FORBIDDEN || b == DEPUTY_FORBIDDEN)
        return DEPUTY_FORBIDDEN;
    return DEPUTY_UNREACHABLE;
}

/* FNV-1a over both strings with their ends: a run never changes its LLM or token, so this guards against a mix-up
 * inside the engine, not against somebody who looks for collisions. 0 is kept for "nothing". */
struct claim gate_claim(deputy_run_id run, const char *llm, const char *token)
{
    const char *parts[] = {llm, token};
    struct claim claim = {.run = run, .subject = 14695981039346656037u};
    if (!llm || !token)
        return (struct claim){0};
    for (size_t i = 0; i < 2; i++) {
        const unsigned char *p = (const unsigned char *)parts[i];
        do
            claim.subject = (claim.subject ^ *p) * 1099511628211u;
        while (*p++);
    }
    claim.subject |= 1;
    return claim;
}

void gate_grant(struct permit *permit, const struct claim *claim, const deputy_probe_answer *answer,
                uint64_t started_us)
{
    memset(permit, 0, sizeof(*permit));
    if (gate_verdict(answer) != DEPUTY_ALLOWED)
        return;
    permit->run = claim->run;
    permit->subject = claim->subject;
    permit->granted_us = started_us;
}

static bool belongs(const struct permit *permit, const struct claim *claim)
{
    return permit->run != 0 && permit->subject != 0 && permit->run == claim->run && permit->subject == claim->subject;
}

bool gate_holds(const struct permit *permit, const struct claim *claim, uint64_t permit_us, uint64_t now_us)
{
    return belongs(permit, claim) && now_us >= permit->granted_us && now_us - permit->granted_us <= permit_us;
}

int gate_spend(struct permit *permit, const struct claim *claim, uint64_t permit_us, uint64_t now_us,
               struct permit *spent)
{
    memset(spent, 0, sizeof(*spent));
    if (!gate_holds(permit, claim, permit_us, now_us))
        return belongs(permit, claim) ? DEPUTY_ESTALE : DEPUTY_EINVAL;
    *spent = *permit;
    memset(permit, 0, sizeof(*permit));
    return DEPUTY_OK;
}
