/* What a managed provider adds to a plain one: the same request, by the same engine, to the same server, once through
 * deputy_openai and once through deputy_managed, when its server is ready. */
#include "figures.h"

#include "deputy/managed.h"

#include <unistd.h>

enum { RUNS = 2000, WARM_UP = 100 };

static int ended;

static void on_end(void *user, const deputy_outcome *outcome)
{
    (void)user;
    if (outcome->result != DEPUTY_RESULT_OK) {
        fprintf(stderr, "a run failed: %s\n", outcome->failure->message);
        exit(1);
    }
    ended++;
}

static double run_once(deputy_engine *engine, deputy_provider *provider)
{
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    deputy_error error = {0};
    request.llm = "m";
    request.body = "{\"model\":\"m\",\"messages\":[]}";
    request.body_len = strlen(request.body);
    request.primary = provider;
    request.primary_only = true;
    sink.on_end = on_end;
    double began = now_us();
    ended = 0;
    must(deputy_start(engine, &request, &sink, NULL, &error), &error);
    while (!ended)
        turn(engine, 1000);
    return now_us() - began;
}

/* By turns, so that whatever else the machine does falls on both. */
static void compare(deputy_engine *engine, deputy_provider *plain, deputy_provider *managed)
{
    static double plain_us[RUNS], managed_us[RUNS];
    for (int i = 0; i < WARM_UP; i++) {
        run_once(engine, plain);
        run_once(engine, managed);
    }
    for (int i = 0; i < RUNS; i++) {
        plain_us[i] = run_once(engine, plain);
        managed_us[i] = run_once(engine, managed);
    }
    double plain_median = median(plain_us, RUNS), managed_median = median(managed_us, RUNS);
    figure("plain openai provider, a run to a server of this machine", plain_median / 1000, "ms", 0);
    figure("managed provider, the same when it is ready", managed_median / 1000, "ms", 0);
    figure("managed over plain, median", (managed_median - plain_median) / 1000, "ms", 1);
    figure("managed over plain, 99th of 100", (managed_us[RUNS * 99 / 100] - plain_us[RUNS * 99 / 100]) / 1000, "ms",
           1);
}

static deputy_managed *make_managed(void)
{
    static char supervisor[512], server[512];
    static const char *command[] = {server, "--port", "{port}", NULL};
    const char *build = getenv("BUILD");
    deputy_managed_options o = DEPUTY_INIT(deputy_managed_options);
    deputy_managed *managed;
    deputy_error error = {0};
    snprintf(supervisor, sizeof(supervisor), "%s/deputy-supervisor", build ? build : "build");
    snprintf(server, sizeof(server), "%s/spec/support/model_server", build ? build : "build");
    o.name = "managed";
    o.command = command;
    o.supervisor = supervisor;
    must(deputy_managed_new(&o, &managed, &error), &error);
    must(deputy_managed_start(managed, &error), &error);
    return managed;
}

static deputy_managed_status wait_until_ready(deputy_managed *managed)
{
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    for (int i = 0; i < 10000; i++) {
        deputy_managed_status_of(managed, &status);
        if (status.state == DEPUTY_MANAGED_READY)
            return status;
        usleep(1000);
    }
    fprintf(stderr, "the server did not get ready: %s\n", status.problem);
    exit(1);
}

int main(void)
{
    deputy_openai_options o = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *plain, *provider;
    deputy_error error = {0};
    char url[64];
    deputy_managed *managed = make_managed();
    deputy_managed_status status = wait_until_ready(managed);
    figure("managed provider, from start to ready", (double)status.ready_us / 1000, "ms", 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/v1", (unsigned)status.port);
    o.name = "plain";
    o.url = url;
    must(deputy_openai_new(&o, &plain, &error), &error);
    must(deputy_managed_provider(managed, &provider, &error), &error);
    deputy_engine *engine = figures_engine(NULL);
    compare(engine, plain, provider);
    deputy_engine_free(engine);
    deputy_provider_unref(plain);
    deputy_provider_unref(provider);
    deputy_managed_unref(managed);
    return figures_over > 0;
}
