/* figures.h - how a bench says what it found: one line for each figure, and whether it is within its bound. */
#ifndef FIGURES_H
#define FIGURES_H

#include "deputy/provider.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int figures_over; /* how many were over their bound: the exit status */

/* bound 0: for information. */
static inline void figure(const char *name, double value, const char *unit, double bound)
{
    printf("%-62s %9.2f %-4s", name, value, unit);
    if (bound > 0)
        printf(" at most %.6g: %s", bound, value <= bound ? "ok" : "OVER");
    printf("\n");
    fflush(stdout);
    figures_over += bound > 0 && value > bound;
}

static inline double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), by_value);
    return values[n / 2];
}

static inline void must(int code, const deputy_error *error)
{
    if (code == DEPUTY_OK)
        return;
    fprintf(stderr, "%s: %s\n", deputy_strerror(code), error->message);
    exit(1);
}

/* One turn of the engine's loop, waiting for at most ms. */
static inline void turn(deputy_engine *engine, int ms)
{
    struct pollfd fd = {.fd = deputy_fd(engine), .events = POLLIN};
    int timeout = deputy_timeout(engine);
    poll(&fd, 1, timeout < 0 || timeout > ms ? ms : timeout);
    deputy_pump(engine);
}

/* A line of /proc/self/status, in KiB: "RssAnon", "VmRSS". */
static inline double memory_kib(const char *what)
{
    char line[256];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, what, strlen(what)) == 0 && line[strlen(what)] == ':')
            kib = strtol(line + strlen(what) + 1, NULL, 10);
    if (file)
        fclose(file);
    return (double)kib;
}

/* ---- the control plane and the providers as functions of this process
 * ------------------------------------------------ */

static inline void figures_allow(void *user, const char *llm, const char *token, deputy_probe_answer *out)
{
    (void)user, (void)llm, (void)token;
    out->kind = DEPUTY_PROBE_OK;
    out->status = 204;
}

static inline int figures_fail(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_failure down = {.kind = DEPUTY_FAILURE_CONNECT, .retry_after_ms = -1};
    (void)self, (void)request;
    return deputy_reply_fail(call, &down);
}

static inline int figures_answer(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self, (void)request;
    return deputy_reply_end(call);
}

static inline int figures_wait(void *self, deputy_call *call, const deputy_request *request)
{
    (void)call, (void)request;
    ++*(int *)self;
    return DEPUTY_OK;
}

static inline deputy_provider *figures_provider(const char *name, const deputy_provider_vtable *vtable, void *self)
{
    deputy_provider *provider;
    deputy_error error = {0};
    must(deputy_provider_new(name, vtable, self, &provider, &error), &error);
    return provider;
}

#define FIGURES_VTABLE(function)                                                                                       \
    {                                                                                                                  \
        .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(deputy_provider_vtable), .complete = (function)                     \
    }

/* An engine with the default policy: each run asks the primary, once, whatever happened to the one before. */
static inline deputy_engine *figures_engine(const char *central_url)
{
    deputy_engine *engine;
    deputy_error error = {0};
    deputy_options options = DEPUTY_INIT(deputy_options);
    const char *script = getenv("POLICY");
    options.bearer_token = "token";
    options.central_url = central_url;
    options.probe = central_url ? NULL : figures_allow;
    options.policy_settings = "{\"retries\":0,\"breaker\":false}";
    must(deputy_engine_new(&options, &engine, &error), &error);
    must(deputy_load_policy(engine, script ? script : "lua/router.lua", &error), &error);
    return engine;
}

#endif
