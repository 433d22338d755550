/* What runs and engines cost in memory, what a large registry costs a run, and runs over loopback sockets. Each figure
 * is taken in a process of its own. */
#include "figures.h"

#include "../support/loopback.h"

#include <curl/curl.h>

enum { RUNS = 1000, PATIENCE_S = 30, BATCH = 100, BATCHES = 1001, TRIES = 3, PASSES = 2000, AT_ONCE = 32 };

/* ---- runs that wait
 * -------------------------------------------------------------------------------------------------- */

static int ended;

static void on_end(void *user, const deputy_outcome *outcome)
{
    (void)user, (void)outcome;
    ended++;
}

static deputy_sink sink = {.size = sizeof(deputy_sink), .on_end = on_end};

static const char body[] = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";

static void start_all(deputy_engine *engine, deputy_provider *primary)
{
    deputy_error error = {0};
    deputy_request request = DEPUTY_INIT(deputy_request);
    request.llm = "claude";
    request.primary = primary;
    request.body = body;
    request.body_len = sizeof(body) - 1;
    for (int i = 0; i < RUNS; i++)
        must(deputy_start(engine, &request, &sink, NULL, &error), &error);
}

static void expect_waiting(size_t waiting)
{
    if (ended == 0 && waiting == RUNS)
        return;
    fprintf(stderr, "expected %d runs to wait: %zu do, %d have ended\n", RUNS, waiting, ended);
    exit(1);
}

static void wait_in_process(const char *name, bool on_local)
{
    static const deputy_provider_vtable failing = FIGURES_VTABLE(figures_fail), waiting = FIGURES_VTABLE(figures_wait);
    int asked = 0;
    deputy_error error = {0};
    deputy_engine *engine = figures_engine(NULL);
    deputy_provider *primary = figures_provider("primary", on_local ? &failing : &waiting, &asked);
    must(deputy_register(engine, figures_provider("local", &waiting, &asked), &error), &error);
    must(deputy_register_failover(engine, "claude", "local", &error), &error);
    double before = memory_kib("RssAnon");
    start_all(engine, primary);
    while (asked < RUNS && ended == 0)
        turn(engine, 100);
    expect_waiting((size_t)asked);
    figure(name, (memory_kib("RssAnon") - before) / RUNS, "KiB", 24);
    deputy_engine_free(engine);
    deputy_provider_unref(primary);
}

static void on_in_process_primary(void)
{
    wait_in_process("1000 runs wait for a primary in this process, each", false);
}

static void on_in_process_local(void)
{
    wait_in_process("1000 runs wait for a stand-in in this process, each", true);
}

static deputy_engine *engine_at(const struct loopback *l)
{
    char url[64], local[80];
    deputy_error error = {0};
    deputy_provider *provider;
    deputy_openai_options openai = DEPUTY_INIT(deputy_openai_options);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", l->port);
    snprintf(local, sizeof(local), "%s/v1", url);
    openai.name = "local";
    openai.url = local;
    openai.model = "small";
    deputy_engine *engine = figures_engine(url);
    must(deputy_openai_new(&openai, &provider, &error), &error);
    must(deputy_register(engine, provider, &error), &error);
    must(deputy_register_failover(engine, "claude", "local", &error), &error);
    return engine;
}

static void wait_on_http(const char *name, int primary_status)
{
    struct loopback l = loopback_start(primary_status, 204, 0);
    deputy_engine *engine = engine_at(&l);
    atomic_ulong *waiting = primary_status ? &l.state->locals : &l.state->primaries;
    double before = memory_kib("RssAnon"), until = now_us() + PATIENCE_S * 1e6;
    start_all(engine, NULL);
    while (*waiting < RUNS && ended == 0 && now_us() < until)
        turn(engine, 100);
    expect_waiting(*waiting);
    figure(name, (memory_kib("RssAnon") - before) / RUNS, "KiB", 32);
    deputy_engine_free(engine);
    loopback_stop(&l);
}

static void on_http_primary(void)
{
    wait_on_http("1000 runs wait for a primary on HTTP, each", 0);
}

static void on_http_local(void)
{
    wait_on_http("1000 runs wait for a stand-in on HTTP, each", 503);
}

/* ---- a large registry
 * -------------------------------------------------------------------------------------------------- */

struct crowd {
    deputy_engine *engine;
    int n, next;
    char (*names)[16];
};

static struct crowd crowd_of(int n)
{
    static const deputy_provider_vtable answering = FIGURES_VTABLE(figures_answer);
    struct crowd c = {.engine = figures_engine(NULL), .n = n, .names = calloc((size_t)n, sizeof(*c.names))};
    deputy_error error = {0};
    must(deputy_register(c.engine, figures_provider("local", &answering, NULL), &error), &error);
    for (int i = 0; i < n; i++) {
        snprintf(c.names[i], sizeof(c.names[i]), "llm-%05d", i * 7919 % n);
        must(deputy_register_failover(c.engine, c.names[i], "local", &error), &error);
    }
    return c;
}

static double run_batch(struct crowd *c, deputy_provider *primary, bool in_turn)
{
    deputy_error error = {0};
    deputy_request request = DEPUTY_INIT(deputy_request);
    request.primary = primary;
    request.stream = DEPUTY_STREAM_NO;
    double began = now_us();
    for (int i = 0; i < BATCH; i++) {
        deputy_reply reply = DEPUTY_INIT(deputy_reply);
        request.llm = c->names[in_turn ? c->next++ % c->n : c->n / 2];
        must(deputy_run(c->engine, &request, &reply, &error), &error);
        deputy_reply_clear(&reply);
    }
    return (now_us() - began) / BATCH;
}

static double compare(struct crowd *few, struct crowd *many, deputy_provider *primary, bool in_turn)
{
    static double a[BATCHES], b[BATCHES];
    double best = 0;
    for (int t = 0; t < TRIES; t++) {
        for (int i = 0; i < BATCHES; i++) {
            a[i] = run_batch(few, primary, in_turn);
            b[i] = run_batch(many, primary, in_turn);
        }
        double ratio = median(b, BATCHES) / median(a, BATCHES);
        if (t == 0 || ratio < best)
            best = ratio;
    }
    return best;
}

static void large_registry(void)
{
    static const deputy_provider_vtable failing = FIGURES_VTABLE(figures_fail);
    struct crowd few = crowd_of(10), many = crowd_of(10000);
    deputy_provider *primary = figures_provider("down", &failing, NULL);
    figure("a run among 10000 LLMs instead of 10", compare(&few, &many, primary, false), "x", 1.05);
    figure("  the same, another LLM each time", compare(&few, &many, primary, true), "x", 0);
    deputy_engine_free(few.engine);
    deputy_engine_free(many.engine);
    deputy_provider_unref(primary);
    free(few.names);
    free(many.names);
}

/* ---- an idle engine
 * ---------------------------------------------------------------------------------------------------- */

/* Code of libraries is mapped once for all processes, and which pages of it a process has touched says nothing of the
 * engine: so what counts is memory of its own. */
static void idle_engine(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    double own = memory_kib("RssAnon"), code = memory_kib("RssFile");
    deputy_engine *engine = figures_engine("http://127.0.0.1:1");
    for (int i = 0; i < 3; i++)
        turn(engine, 10);
    figure("an idle engine with its policy, over an idle process", memory_kib("RssAnon") - own, "KiB", 1024);
    figure("  pages of shared code that it touches for the first time", memory_kib("RssFile") - code, "KiB", 0);
    deputy_engine_free(engine);
}

/* ---- over loopback
 * ------------------------------------------------------------------------------------------------------ */

static void http_one_by_one(void)
{
    struct loopback l = loopback_start(503, 204, 200);
    deputy_engine *engine = engine_at(&l);
    deputy_error error = {0};
    deputy_request request = DEPUTY_INIT(deputy_request);
    request.llm = "claude";
    request.body = body;
    request.body_len = sizeof(body) - 1;
    double began = now_us();
    for (int i = 0; i < PASSES; i++) {
        deputy_reply reply = DEPUTY_INIT(deputy_reply);
        must(deputy_run(engine, &request, &reply, &error), &error);
        deputy_reply_clear(&reply);
    }
    figure("503, fresh probe, local 200 on loopback, one by one", PASSES / (now_us() - began) * 1e6, "/s", 0);
    deputy_engine_free(engine);
    loopback_stop(&l);
}

static void http_many_at_once(void)
{
    struct loopback l = loopback_start(503, 204, 200);
    deputy_engine *engine = engine_at(&l);
    deputy_error error = {0};
    deputy_request request = DEPUTY_INIT(deputy_request);
    int started = 0;
    request.llm = "claude";
    request.body = body;
    request.body_len = sizeof(body) - 1;
    double began = now_us();
    while (ended < PASSES) {
        for (; started < PASSES && started - ended < AT_ONCE; started++)
            must(deputy_start(engine, &request, &sink, NULL, &error), &error);
        turn(engine, 100);
    }
    figure("  the same, 32 at once", PASSES / (now_us() - began) * 1e6, "/s", 0);
    deputy_engine_free(engine);
    loopback_stop(&l);
}

int main(void)
{
    void (*const all[])(void) = {on_in_process_primary, on_in_process_local, on_http_primary, on_http_local,
                                 large_registry,        idle_engine,         http_one_by_one, http_many_at_once};
    loopback_raise_limit();
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        int status = 1;
        pid_t child = fork();
        if (child == 0) {
            all[i]();
            exit(figures_over);
        }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
            figures_over++;
    }
    return figures_over > 0;
}
