#include "gateway/survey.h"

#include "deputy/provider.h"
#include "gateway/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

enum { FRESH_MS = 1000, MODELS_FRESH_MS = 10000, CHECK_MS = 2000, MODELS_BYTES_MAX = 256 << 10 };

struct waiting {
    struct waiting *prev, *next;
    struct http1_exchange *exchange;
    survey_answer answer;
    uint64_t until; /* in ms of the loop */
};

/* A question under way. The round may be over before it is answered. */
struct ticket {
    struct survey *survey;
    unsigned round;
    size_t index;
};

static void wait_on(struct survey *s);

static void on_timer(uv_timer_t *timer)
{
    struct survey *s = timer->data;
    struct waiting *w, *next;
    uint64_t now = uv_now(timer->loop);
    DL_FOREACH_SAFE (s->waiting, w, next) {
        if (s->open > 0 && w->until > now)
            continue;
        DL_DELETE(s->waiting, w);
        w->answer(s->worker, w->exchange);
        free(w);
    }
    wait_on(s);
}

static void wait_on(struct survey *s)
{
    const struct waiting *w;
    uint64_t now = uv_now(&s->worker->loop), soonest = UINT64_MAX;
    DL_FOREACH (s->waiting, w)
        soonest = w->until < soonest ? w->until : soonest;
    if (s->waiting)
        uv_timer_start(&s->timer, on_timer, s->open == 0 || soonest <= now ? 0 : soonest - now, 0);
}

static struct finding *finding_of(const struct ticket *t)
{
    return t->survey->round == t->round && t->index < t->survey->n ? &t->survey->findings[t->index] : NULL;
}

static void close_ticket(struct ticket *t)
{
    struct survey *s = t->survey;
    if (s->round == t->round && --s->open == 0)
        wait_on(s);
    free(t);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

static void forget_models(struct finding *f)
{
    free(f->models);
    f->models = NULL;
    f->n_models = 0;
    f->named = 0;
    f->too_many = false;
}

static void on_model(void *user, const char *model)
{
    struct finding *f = finding_of(user);
    size_t size = strlen(model) + 1;
    char *grown = f && f->n_models + size <= MODELS_BYTES_MAX ? realloc(f->models, f->n_models + size) : NULL;
    if (!grown) {
        if (f)
            f->too_many = true;
        return;
    }
    memcpy(grown + f->n_models, model, size);
    f->models = grown;
    f->n_models += size;
}

static void on_models(void *user, int code, const char *why)
{
    struct ticket *t = user;
    struct finding *f = finding_of(t);
    if (f && code == DEPUTY_OK)
        f->named = uv_now(&t->survey->worker->loop);
    else if (f && code != DEPUTY_ECANCELED)
        snprintf(f->why, sizeof(f->why), "%s", why);
    close_ticket(t);
}

static void on_available(void *user, int code, const char *why)
{
    struct ticket *t = user;
    struct finding *f = finding_of(t);
    struct worker *w = t->survey->worker;
    if (f && code != DEPUTY_ECANCELED) {
        f->known = true;
        f->available = code == DEPUTY_OK;
        f->at = now_ms();
        snprintf(f->why, sizeof(f->why), "%s", why);
    }
    if (f && f->available && (f->named == 0 || f->named + MODELS_FRESH_MS <= uv_now(&w->loop))) {
        forget_models(f);
        if (deputy_ask_models(w->current->engine, f->name, CHECK_MS, on_model, on_models, t, NULL) == DEPUTY_OK)
            return;
    }
    close_ticket(t);
}

static int add_finding(void *user, deputy_provider *provider)
{
    struct survey *s = user;
    struct finding *grown = realloc(s->findings, (s->n + 1) * sizeof(*grown));
    if (!grown)
        return 1;
    s->findings = grown;
    memset(&grown[s->n], 0, sizeof(*grown));
    snprintf(grown[s->n].name, sizeof(grown->name), "%s", deputy_provider_name(provider));
    s->n++;
    return 0;
}

static void forget_findings(struct survey *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->findings[i].models);
    free(s->findings);
    s->findings = NULL;
    s->n = 0;
}

static void begin_round(struct survey *s)
{
    const struct station *station = s->worker->current;
    s->begun = uv_now(&s->worker->loop);
    s->round++;
    s->open = 0;
    if (s->station != station->number) {
        forget_findings(s);
        deputy_list_providers(station->engine, add_finding, s);
        s->station = station->number;
    }
    for (size_t i = 0; i < s->n; i++) {
        struct ticket *t = malloc(sizeof(*t));
        if (!t)
            continue;
        *t = (struct ticket){s, s->round, i};
        if (deputy_ask_available(station->engine, s->findings[i].name, CHECK_MS, on_available, t, NULL) == DEPUTY_OK)
            s->open++;
        else
            free(t);
    }
}

/* ---- for those who want to know --------------------------------------------------------------------------------- */

void survey_init(struct survey *s, struct worker *worker)
{
    s->worker = worker;
    uv_timer_init(&worker->loop, &s->timer);
    s->timer.data = s;
}

void survey_ask(struct survey *s, uint32_t patience_ms, struct http1_exchange *exchange, survey_answer answer)
{
    uint64_t now = uv_now(&s->worker->loop);
    bool is_ours = s->begun > 0 && s->station == s->worker->current->number;
    /* A round that goes on is joined, however many come: begun anew each second it would never end. */
    if (!is_ours || (s->open == 0 && s->begun + FRESH_MS <= now))
        begin_round(s);
    struct waiting *w = s->open > 0 ? malloc(sizeof(*w)) : NULL;
    if (!w) {
        answer(s->worker, exchange);
        return;
    }
    *w = (struct waiting){.exchange = exchange, .answer = answer, .until = now + patience_ms};
    DL_APPEND(s->waiting, w);
    wait_on(s);
}

bool survey_forget(struct survey *s, const struct http1_exchange *exchange)
{
    struct waiting *w, *next;
    DL_FOREACH_SAFE (s->waiting, w, next) {
        if (w->exchange != exchange)
            continue;
        DL_DELETE(s->waiting, w);
        free(w);
        return true;
    }
    return false;
}

const struct finding *survey_find(const struct survey *s, const char *provider)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->findings[i].name, provider) == 0)
            return s->findings[i].known ? &s->findings[i] : NULL;
    return NULL;
}

void survey_close(struct survey *s)
{
    struct waiting *w, *next;
    DL_FOREACH_SAFE (s->waiting, w, next)
        free(w);
    s->waiting = NULL;
    s->open = 0;
    s->round++; /* what is still under way means nothing any more */
    uv_close((uv_handle_t *)&s->timer, NULL);
}

void survey_free(struct survey *s)
{
    forget_findings(s);
}
