#include "config.h"
#include "gateway/gateway.h"
#include "gateway/log_line.h"
#include "gpu.h"
#include "host.h"
#include "policy.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- the configuration, as the gateway sees it ------------------------------------------------------------------- */

/* One for the process. */
struct serving {
    const struct options *options;
    struct managed_pool pool;
    atomic_bool log_json; /* as the configuration that was read last says */
    atomic_int log_level;
};

struct loaded {
    struct serving *serving;
    struct config config;
    struct managed_set *managed;
};

static void unload(void *user)
{
    struct loaded *loaded = user;
    managed_give_back(&loaded->serving->pool, loaded->managed);
    config_free(&loaded->config);
    free(loaded);
}

static void on_managed_log(void *user, deputy_log_level level, const char *text)
{
    struct serving *serving = user;
    gateway_log_line(atomic_load(&serving->log_json), (deputy_log_level)atomic_load(&serving->log_level), level, text);
}

static int read_all(struct loaded *loaded, FILE *problems, FILE *warnings)
{
    struct serving *serving = loaded->serving;
    struct config *config = &loaded->config;
    deputy_error error = {0, ""};
    int status = config_load(serving->options, problems, warnings, config);
    if (status != STATUS_OK)
        return status;
    if (serving->options->listen)
        config->gateway.listen = serving->options->listen;
    int code = policy_prepare(config, &error);
    if (code == DEPUTY_OK) { /* not for one that is refused; servers that start now speak by it already */
        atomic_store(&serving->log_json, config->gateway.log_json);
        atomic_store(&serving->log_level, (int)config->gateway.log_level);
        code = managed_take(&serving->pool, config, &loaded->managed, &error);
    }
    if (code == DEPUTY_OK) {
        config->gateway.warning = config->policy_warning[0] ? config->policy_warning : NULL;
        return STATUS_OK;
    }
    if (problems == stderr)
        return complain(serving->options->command, "%s", error.message);
    fprintf(problems, "%s\n", error.message);
    return STATUS_FAILED;
}

/* NULL when it is not usable: status says how to end, and everything is said on problems. */
static struct loaded *load(struct serving *serving, FILE *problems, FILE *warnings, int *status)
{
    struct loaded *loaded = calloc(1, sizeof(*loaded));
    if (!loaded) {
        *status = complain(serving->options->command, "out of memory");
        return NULL;
    }
    loaded->serving = serving;
    *status = read_all(loaded, problems, warnings);
    if (*status == STATUS_OK)
        return loaded;
    unload(loaded);
    return NULL;
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
    struct loaded *loaded = load(user, problems, NULL, &status);
    if (fclose(problems) == 0 && !loaded)
        join_lines(text && text[0] ? text : "the configuration cannot be read", problem, problem_size);
    free(text);
    if (loaded)
        *settings = loaded->config.gateway;
    return loaded;
}

static int make_engine(void *user, struct uv_loop_s *loop, deputy_log_fn on_log, void *log_user, deputy_engine **engine,
                       deputy_error *error)
{
    const struct loaded *loaded = user;
    const struct config *config = &loaded->config;
    deputy_options options = config->options;
    options.loop = loop;
    options.on_log = on_log;
    options.log_user = log_user;
    options.limits.max_body_bytes = config->gateway.max_body_bytes;
    options.limits.max_reply_bytes = config->max_reply_bytes;
    options.limits.max_runs = config->gateway.max_in_flight;
    return host_make_engine(config, loaded->managed, &options, engine, error);
}

/* ---- what an operator asks --------------------------------------------------------------------------------------- */

static const struct provider_config *find_provider(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_providers; i++)
        if (strcmp(config->providers[i].name, name) == 0)
            return &config->providers[i];
    return NULL;
}

static int command(void *user, void *loaded_user, const char *provider, const char *verb, deputy_error *error)
{
    const struct loaded *loaded = loaded_user;
    deputy_managed *managed = managed_find(loaded->managed, provider);
    (void)user;
    if (managed)
        return managed_command(managed, verb, error);
    bool known = find_provider(&loaded->config, provider) != NULL;
    snprintf(error->message, sizeof(error->message),
             known ? "'%.128s' is not a provider that deputy starts or stops" : "there is no provider '%.128s'",
             provider);
    return error->code = known ? DEPUTY_EINVAL : DEPUTY_ENOTFOUND;
}

static int describe(void *user, void *loaded_user, const char *provider, bool with_output,
                    struct gateway_provider *facts)
{
    const struct loaded *loaded = loaded_user;
    const struct provider_config *config = find_provider(&loaded->config, provider);
    deputy_managed *managed = managed_find(loaded->managed, provider);
    (void)user;
    if (!config)
        return DEPUTY_ENOTFOUND;
    facts->type = config->type;
    facts->url = config->url;
    facts->model = config->managed ? config->managed->options.model : config->model;
    if (managed)
        managed_describe(managed, with_output, facts);
    return DEPUTY_OK;
}

static bool end(void *user)
{
    struct serving *serving = user;
    return managed_end(&serving->pool);
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

/* Whoever asks for a reload while the policy is looked at must not end us; the gateway lets it in once it listens. */
static void hold_back_reloads(void)
{
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);
}

static int run(const struct options *options)
{
    int status = check_address(options);
    if (status >= 0)
        return status;
    struct serving serving = {.options = options};
    hold_back_reloads();
    managed_pool_init(&serving.pool, on_managed_log, &serving);
    raise_file_limit();
    struct loaded *loaded = load(&serving, stderr, stderr, &status);
    if (loaded) {
        struct gateway_host host = {
            .user = &serving,
            .load = load_again,
            .make_engine = make_engine,
            .unload = unload,
            .command = command,
            .describe = describe,
            .end = end,
        };
        status = gateway_run(&host, loaded, &loaded->config.gateway) == 0 ? STATUS_OK : STATUS_FAILED;
    }
    managed_pool_free(&serving.pool);
    return status;
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
