#include "config.h"
#include "gateway/gateway.h"
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- the configuration, as the gateway sees it ------------------------------------------------------------------- */

static void unload(void *loaded)
{
    config_free(loaded);
    free(loaded);
}

/* NULL when it is not usable: status says how to end, and everything is said on problems. */
static struct config *load(const struct options *options, FILE *problems, FILE *warnings, int *status)
{
    struct config *config = malloc(sizeof(*config));
    if (!config) {
        *status = complain(options->command, "out of memory");
        return NULL;
    }
    *status = config_load(options, problems, warnings, config);
    if (*status != STATUS_OK) {
        unload(config);
        return NULL;
    }
    if (options->listen)
        config->gateway.listen = options->listen;
    return config;
}

/* All mistakes in one line. */
static void join_lines(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (; *text && n + 3 < size; text++) {
        if (*text != '\n')
            out[n++] = *text;
        else if (text[1])
            n += (size_t)snprintf(out + n, size - n, "; ");
    }
    out[n] = '\0';
}

static void *load_again(void *user, struct gateway_settings *settings, char *problem, size_t problem_size)
{
    char *text = NULL;
    size_t len = 0;
    int status;
    FILE *problems = open_memstream(&text, &len);
    if (!problems) {
        snprintf(problem, problem_size, "out of memory");
        return NULL;
    }
    struct config *config = load(user, problems, NULL, &status);
    if (fclose(problems) == 0 && !config)
        join_lines(text && text[0] ? text : "the configuration cannot be read", problem, problem_size);
    free(text);
    if (config)
        *settings = config->gateway;
    return config;
}

static int make_engine(void *loaded, struct uv_loop_s *loop, deputy_log_fn on_log, void *log_user,
                       deputy_engine **engine, deputy_error *error)
{
    const struct config *config = loaded;
    deputy_options options = config->options;
    options.loop = loop;
    options.on_log = on_log;
    options.log_user = log_user;
    options.limits.max_body_bytes = config->gateway.max_body_bytes;
    options.limits.max_reply_bytes = config->max_reply_bytes;
    options.limits.max_runs = config->gateway.max_in_flight;
    return host_make_engine(config, &options, engine, error);
}

/* ---- the command --------------------------------------------------------------------------------------------------
 */

static int check_address(const struct options *options)
{
    const char *address = options->listen, *colon = address ? strrchr(address, ':') : NULL;
    if (!address || (strncmp(address, "unix:", 5) == 0 && address[5]))
        return -1;
    if (colon && colon > address && colon[1] && strlen(colon + 1) <= 5 &&
        strspn(colon + 1, "0123456789") == strlen(colon + 1) && strtol(colon + 1, NULL, 10) <= 65535)
        return -1;
    return usage_error(options->command, "--listen: expected HOST:PORT or unix:PATH, got '%.100s'", address);
}

/* A caller takes two descriptors, and the usual soft limit is there for programs that call select(). */
static void raise_file_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int run(const struct options *options)
{
    int status = check_address(options);
    if (status >= 0)
        return status;
    struct config *config = load(options, stderr, stderr, &status);
    if (!config)
        return status;
    raise_file_limit();
    struct gateway_host host = {
        .user = (void *)(uintptr_t)options,
        .load = load_again,
        .make_engine = make_engine,
        .unload = unload,
    };
    return gateway_run(&host, config, &config->gateway) == 0 ? STATUS_OK : STATUS_FAILED;
}

const struct command serve_command = {
    .name = "serve",
    .summary = "serve OpenAI and Anthropic clients over HTTP",
    .operands = "",
    .accepts = OPTION_CONFIG | OPTION_LISTEN,
    .about = "Answers /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages and\n"
             "/v1/models: the request's model names the LLM. A local provider stands in when the central is down\n"
             "and the caller may still see the LLM. Also /healthz, /readyz, /metrics, and a page at /.\n"
             "SIGHUP reloads configuration and policy, SIGTERM drains. One line for each run goes to stderr.\n",
    .exits = "  0  ended by SIGTERM or SIGINT\n  1  it could not start\n  2  wrong arguments\n",
    .example = "deputy serve -c deputy.json --listen 127.0.0.1:4141",
    .run = run,
};
