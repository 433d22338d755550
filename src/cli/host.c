#include "host.h"

#include "deputy/provider.h"

#include <stdio.h>
#include <string.h>

static void on_log(void *user, deputy_log_level level, const char *text)
{
    static const char *const levels[] = {"error", "warning", "info", "debug"};
    struct host *host = user;
    if (level > (host->options->verbose ? DEPUTY_LOG_DEBUG : DEPUTY_LOG_WARN))
        return;
    progress_clear(&host->progress);
    fprintf(stderr, "deputy: %s: %s\n", levels[level], text);
}

static int make_provider(const struct command *command, const struct provider_config *p, deputy_provider **provider)
{
    deputy_error error;
    int code;
    if (strcmp(p->type, "openai") == 0) {
        deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
        options.name = p->name;
        options.url = p->url;
        options.model = p->model;
        options.api_key = p->api_key;
        options.ca_file = p->ca_file;
        code = deputy_openai_new(&options, provider, &error);
    } else if (strcmp(p->type, "echo") == 0) {
        code = deputy_echo_new(p->name, provider, &error);
    } else {
        return complain(command, "provider '%s': type '%s' is not in this version", p->name, p->type);
    }
    return code == DEPUTY_OK ? STATUS_OK : complain(command, "provider '%s': %s", p->name, error.message);
}

static int add_provider(struct host *host, const struct provider_config *p)
{
    deputy_error error;
    deputy_provider *provider = NULL;
    int status = make_provider(host->options->command, p, &provider);
    if (status != STATUS_OK)
        return status;
    if (deputy_register(host->engine, provider, &error) != DEPUTY_OK) {
        deputy_provider_unref(provider);
        return complain(host->options->command, "provider '%s': %s", p->name, error.message);
    }
    for (size_t i = 0; i < p->n_llms; i++)
        if (deputy_register_failover(host->engine, p->llms[i], p->name, &error) != DEPUTY_OK)
            return complain(host->options->command, "provider '%s': %s", p->name, error.message);
    return STATUS_OK;
}

int host_open(const struct options *options, struct host *host)
{
    deputy_error error;
    const struct command *command = options->command;
    memset(host, 0, sizeof(*host));
    host->options = options;
    progress_init(&host->progress);
    int status = config_load(options, stderr, NULL, &host->config);
    if (status != STATUS_OK)
        return status;
    host->config.options.on_log = on_log;
    host->config.options.log_user = host;
    if (deputy_engine_new(&host->config.options, &host->engine, &error) != DEPUTY_OK)
        return complain(command, "%s: %s", host->config.file, error.message);
    if (deputy_load_policy(host->engine, host->config.script, &error) != DEPUTY_OK)
        return complain(command, "%s", error.message);
    for (size_t i = 0; i < host->config.n_providers; i++) {
        status = add_provider(host, &host->config.providers[i]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

void host_close(struct host *host)
{
    deputy_engine_free(host->engine);
    host->engine = NULL;
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
            unsigned char byte = (unsigned char)text[i];
            out[n++] = byte < 0x20 || byte == 0x7f ? ' ' : text[i];
        }
    }
    out[n] = '\0';
}
