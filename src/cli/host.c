#include "host.h"

#include "deputy/provider.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

static const char *const levels[] = {"error", "warning", "info", "debug"};

static void on_log(void *user, deputy_log_level level, const char *text)
{
    struct host *host = user;
    if (level > (host->options->verbose ? DEPUTY_LOG_DEBUG : DEPUTY_LOG_WARN))
        return;
    progress_clear(&host->progress);
    fprintf(stderr, "deputy: %s: %s\n", levels[level], text);
}

/* From the library's own thread: the line of progress is the other one's, so it is only written over. */
static void on_server_log(void *user, deputy_log_level level, const char *text)
{
    const struct host *host = user;
    if (level <= (host->options->verbose ? DEPUTY_LOG_DEBUG : DEPUTY_LOG_WARN))
        fprintf(stderr, "%sdeputy: %s: %s\n", host->progress.on ? "\r\x1b[K" : "", levels[level], text);
}

static int make_provider(const struct provider_config *p, const struct managed_set *set, deputy_provider **provider,
                         deputy_error *error)
{
    if (p->managed)
        return deputy_managed_provider(managed_find(set, p->name), provider, error);
    if (strcmp(p->type, "openai") == 0) {
        deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
        options.name = p->name;
        options.url = p->url;
        options.model = p->model;
        options.api_key = p->api_key;
        options.ca_file = p->ca_file;
        return deputy_openai_new(&options, provider, error);
    }
    if (strcmp(p->type, "echo") == 0)
        return deputy_echo_new(p->name, provider, error);
    snprintf(error->message, sizeof(error->message), "type '%s' is not in this version", p->type);
    return error->code = DEPUTY_EINVAL;
}

static int add_provider(deputy_engine *engine, const struct provider_config *p, const struct managed_set *set,
                        deputy_error *error)
{
    deputy_provider *provider = NULL;
    int code = make_provider(p, set, &provider, error);
    if (code != DEPUTY_OK)
        return code;
    code = deputy_register(engine, provider, error);
    if (code != DEPUTY_OK)
        deputy_provider_unref(provider);
    for (size_t i = 0; code == DEPUTY_OK && i < p->n_llms; i++)
        code = deputy_register_failover(engine, p->llms[i], p->name, error);
    return code;
}

int host_make_engine(const struct config *config, const struct managed_set *managed, const deputy_options *options,
                     deputy_engine **engine, deputy_error *error)
{
    deputy_error why = {0, ""};
    int code = deputy_engine_new(options, engine, &why);
    if (code != DEPUTY_OK) {
        error->code = code;
        snprintf(error->message, sizeof(error->message), "%.200s: %.300s", config->file, why.message);
        return code;
    }
    code = config->policy_text
               ? deputy_load_policy_text(*engine, config->script, config->policy_text, config->policy_len, error)
               : deputy_load_policy(*engine, config->script, error);
    for (size_t i = 0; code == DEPUTY_OK && i < config->n_providers; i++) {
        code = add_provider(*engine, &config->providers[i], managed, &why);
        if (code != DEPUTY_OK) {
            error->code = code;
            snprintf(error->message, sizeof(error->message), "provider '%.128s': %.350s", config->providers[i].name,
                     why.message);
        }
    }
    return code;
}

int host_open(const struct options *options, struct host *host)
{
    deputy_error error = {0, ""};
    memset(host, 0, sizeof(*host));
    host->options = options;
    progress_init(&host->progress);
    managed_pool_init(&host->pool, on_server_log, host);
    host->pool.only_on_demand = true;
    int status = config_load(options, stderr, NULL, &host->config);
    if (status != STATUS_OK)
        return status;
    host->config.options.on_log = on_log;
    host->config.options.log_user = host;
    if (managed_take(&host->pool, &host->config, &host->managed, &error) != DEPUTY_OK ||
        host_make_engine(&host->config, host->managed, &host->config.options, &host->engine, &error) != DEPUTY_OK)
        return complain(options->command, "%s", error.message);
    return STATUS_OK;
}

void host_close(struct host *host)
{
    deputy_engine_free(host->engine);
    host->engine = NULL;
    managed_give_back(&host->pool, host->managed);
    host->managed = NULL;
    managed_pool_free(&host->pool);
    config_free(&host->config);
}

void host_clean(const struct host *host, const char *text, size_t len, char *out, size_t size)
{
    const char *token = host->config.options.bearer_token;
    size_t token_len = token ? strlen(token) : 0, n = 0;
    for (size_t i = 0; i < len && n + 1 < size; i++) {
        if (token_len > 0 && len - i >= token_len && memcmp(text + i, token, token_len) == 0) {
            n += (size_t)snprintf(out + n, size - n, "[token]");
            n = n < size ? n : size - 1;
            i += token_len - 1;
        } else {
            size_t control = text_control(text + i, len - i);
            out[n++] = control > 0 ? ' ' : text[i];
            i += control > 1;
        }
    }
    out[n] = '\0';
}
