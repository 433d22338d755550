#include "ask_report.h"

#include "json_in.h"
#include "json_out.h"
#include "live_server.h"
#include "managed.h"

#include <stdio.h>
#include <string.h>

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

static void json_failure(yajl_gen json, const struct ask_end *end)
{
    const deputy_failure *f = end->outcome->failure;
    char message[sizeof(f->message) * 2];
    host_clean(end->host, f->message, strlen(f->message), message, sizeof(message));
    json_key(json, "failure");
    yajl_gen_map_open(json);
    json_key(json, "kind");
    json_string(json, deputy_failure_name(f->kind));
    json_key(json, "status");
    yajl_gen_integer(json, f->status);
    json_key(json, "code");
    json_string(json, f->code);
    json_key(json, "message");
    json_string(json, message);
    yajl_gen_map_close(json);
}

bool report_json(const struct ask_end *end)
{
    const deputy_outcome *o = end->outcome;
    bool ok = o->result == DEPUTY_RESULT_OK;
    yajl_gen json = json_begin();
    if (!json)
        return false;
    yajl_gen_map_open(json);
    json_key(json, "failover");
    yajl_gen_bool(json, o->failover);
    json_key(json, "via");
    json_string(json, o->via);
    json_key(json, ok ? "result" : "error");
    json_value_or_text(json, end->reply->bytes, end->reply->len);
    if (o->failure)
        json_failure(json, end);
    json_trace(json, o);
    yajl_gen_map_close(json);
    json_end(json);
    return true;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

struct detail {
    const struct host *host;
    char message[400];
};

static void on_string(void *user, const char *path, const char *text, size_t len)
{
    static const char *const places[] = {"error.message", "error", "message", "detail"};
    struct detail *detail = user;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        if (strcmp(path, places[i]) == 0 && detail->message[0] == '\0')
            host_clean(detail->host, text, len, detail->message, sizeof(detail->message));
}

/* What the error says about itself, in its body or else as the engine puts it. */
static void find_detail(const struct ask_end *end, struct detail *detail)
{
    const char *fallback = end->outcome->failure->message;
    *detail = (struct detail){.host = end->host};
    if (end->reply->len > 0)
        json_each_string(end->reply->bytes, end->reply->len, on_string, detail);
    if (!detail->message[0])
        host_clean(end->host, fallback, strlen(fallback), detail->message, sizeof(detail->message));
}

static void say_failure(const struct ask_end *end)
{
    const deputy_failure *f = end->outcome->failure;
    const struct command *command = end->host->options->command;
    struct detail detail;
    char code[64] = "";
    find_detail(end, &detail);
    if (f->code[0])
        snprintf(code, sizeof(code), " (%s)", f->code);
    switch (f->kind) {
    case DEPUTY_FAILURE_STATUS:
        complain(command, "%s: the central answered %d%s: %s", end->llm, f->status, code, detail.message);
        break;
    case DEPUTY_FAILURE_CONNECT:
    case DEPUTY_FAILURE_DNS:
    case DEPUTY_FAILURE_TLS:
    case DEPUTY_FAILURE_TIMEOUT:
        complain(command, "%s: the central did not answer%s: %s", end->llm, code, detail.message);
        break;
    case DEPUTY_FAILURE_CUT:
        complain(command, "%s: the answer was cut off%s: %s", end->llm, code, detail.message);
        break;
    case DEPUTY_FAILURE_MALFORMED:
    case DEPUTY_FAILURE_IN_BAND:
    case DEPUTY_FAILURE_LIMIT:
        complain(command, "%s: the central gave no usable answer%s: %s", end->llm, code, detail.message);
        break;
    default:
        complain(command, "%s: %s", end->llm, detail.message);
    }
}

static const deputy_trace *last_leg(const deputy_outcome *outcome, deputy_leg leg)
{
    for (size_t i = outcome->n_trace; i-- > 0;)
        if (outcome->trace[i].leg == leg)
            return &outcome->trace[i];
    return NULL;
}

static void how_it_ended(const deputy_trace *t, char *out, size_t size)
{
    if (t->status)
        snprintf(out, size, "%d", t->status);
    else
        snprintf(out, size, "%s", t->kind);
}

static void say_verdict(const struct ask_end *end, const deputy_trace *probe)
{
    const struct command *command = end->host->options->command;
    char how[64];
    how_it_ended(probe, how, sizeof(how));
    if (probe->verdict == DEPUTY_FORBIDDEN)
        complain(command, "no failover: forbidden: the central says that this token may not see '%s' (probe: %s)",
                 end->llm, how);
    else if (strcmp(probe->kind, deputy_probe_kind_name(DEPUTY_PROBE_NO_TOKEN)) == 0)
        complain(command,
                 "no failover: unreachable: there is no token to ask the central with; set central.bearerToken "
                 "or central.bearerTokenFile in %s",
                 end->host->config.file);
    else if (probe->verdict == DEPUTY_UNREACHABLE)
        complain(command,
                 "no failover: unreachable: the central did not confirm that this token may see '%s' (probe: %s)",
                 end->llm, how);
    else
        complain(command, "no failover: the policy called no stand-in, though the central allows it (probe: %s)", how);
}

/* What a model server of ours wrote before it failed is nearest to the cause. Keys are blotted out in it. */
static void show_output(const struct ask_end *end, const char *provider)
{
    deputy_managed *managed = managed_find(end->host->managed, provider);
    char output[4096];
    size_t len = managed ? deputy_managed_output(managed, output, sizeof(output)) : 0;
    if (len > 0)
        live_server_output(stderr, output);
}

/* " at HOST:PORT" of a provider whose URL stands in the configuration. User and password are not part of it. */
static void where_it_is(const struct ask_end *end, const char *provider, char *out, size_t size)
{
    const struct config *config = &end->host->config;
    out[0] = '\0';
    for (size_t i = 0; i < config->n_providers; i++) {
        const struct provider_config *p = &config->providers[i];
        const char *host = p->url && strcmp(p->name, provider) == 0 ? strstr(p->url, "://") : NULL;
        if (!host)
            continue;
        host += 3;
        size_t len = strcspn(host, "/?#");
        for (size_t at = len; at-- > 0;)
            if (host[at] == '@') {
                host += at + 1;
                len -= at + 1;
                break;
            }
        char name[200];
        host_clean(end->host, host, len, name, sizeof(name));
        snprintf(out, size, " at %s", name);
    }
}

static void say_stand_in_failed(const struct ask_end *end, const deputy_trace *local)
{
    char how[64], where[256];
    how_it_ended(local, how, sizeof(how));
    where_it_is(end, local->provider, where, sizeof(where));
    complain(end->host->options->command,
             "no failover: '%s' was allowed to stand in, but failed too (%s)%s%s; 'deputy providers' shows how it is",
             local->provider, how, where, local->status == 404 && where[0] ? " (its url usually ends in /v1)" : "");
    if (!local->status)
        show_output(end, local->provider);
}

static void say_why_alone(const struct ask_end *end)
{
    const deputy_outcome *o = end->outcome;
    const struct command *command = end->host->options->command;
    const deputy_trace *local = last_leg(o, DEPUTY_LEG_LOCAL), *probe = last_leg(o, DEPUTY_LEG_PROBE);
    const deputy_trace *note = last_leg(o, DEPUTY_LEG_POLICY);
    if (!end->has_stand_in) {
        complain(command, "no failover: no provider in %s stands in for '%s'", end->host->config.file, end->llm);
    } else if (local) {
        say_stand_in_failed(end, local);
    } else if (probe) {
        say_verdict(end, probe);
    } else if (note) {
        complain(command, "no failover: the policy did not come to an end (%s)", note->kind);
    } else {
        complain(
            command,
            "no failover: the policy takes this for the central's answer, not for an outage (should_failover), or has "
            "a reason of its own");
    }
}

void report_failure(const struct ask_end *end)
{
    say_failure(end);
    switch (end->outcome->failure->kind) {
    case DEPUTY_FAILURE_CANCELLED:
    case DEPUTY_FAILURE_DEADLINE:
        return;
    default:
        if (end->outcome->result == DEPUTY_RESULT_FAILED)
            say_why_alone(end);
    }
}

void report_stand_in(const struct ask_end *end)
{
    const deputy_trace *primary = last_leg(end->outcome, DEPUTY_LEG_PRIMARY);
    char how[64] = "it was not asked";
    if (primary)
        how_it_ended(primary, how, sizeof(how));
    fprintf(stderr, "deputy ask: '%s' stood in for '%s' (the central: %s)\n", end->outcome->via, end->llm, how);
}
