#include "host.h"

#include <stdio.h>

static const char *advice_on_status(int status, deputy_verdict verdict)
{
    switch (status) {
    case 401:
        return ": the central does not take this token";
    case 403:
        return ": this token may not view it";
    case 404:
        return ": it has no such LLM, or nothing is there; see central.url and central.probe";
    case 405:
        return ": it takes no such method; see central.probeMethod";
    default:
        if (status >= 300 && status < 400)
            return ": redirects are not followed; see central.url";
        if (status >= 200 && status < 300 && verdict != DEPUTY_ALLOWED)
            return ": a page, or what else the policy does not take for a yes; see central.url";
        return status >= 500 ? ": the central itself fails" : "";
    }
}

/* What to look at, in words of the configuration. */
static const char *advice(const deputy_probe_answer *answer, deputy_verdict verdict)
{
    switch (answer->kind) {
    case DEPUTY_PROBE_CONNECT:
        return ": nobody listens where central.url leads";
    case DEPUTY_PROBE_DNS:
        return ": the host of central.url is not known";
    case DEPUTY_PROBE_TLS:
        return ": no TLS that can be trusted where central.url leads; see central.caFile";
    case DEPUTY_PROBE_TIMEOUT:
        return ": no answer within timeouts.probeMs";
    case DEPUTY_PROBE_OK:
        return advice_on_status(answer->status, verdict);
    case DEPUTY_PROBE_PROTOCOL:
        return ": no whole HTTP answer where central.url leads";
    default:
        return "";
    }
}

static void explain(const struct host *host, const char *llm, deputy_verdict verdict, const deputy_probe_answer *answer)
{
    if (!host->config.options.bearer_token)
        complain(host->options->command,
                 "%s: no token to ask with: set central.bearerToken or central.bearerTokenFile in %s", llm,
                 host->config.file);
    else if (host->options->verbose)
        fprintf(stderr, "deputy probe: %s: %s (probe: %s, status %d, %.1f ms)%s\n", llm, deputy_verdict_name(verdict),
                deputy_probe_kind_name(answer->kind), answer->status, (double)answer->us / 1000,
                advice(answer, verdict));
}

static int probe(struct host *host, const char *llm)
{
    deputy_error error;
    deputy_verdict verdict = DEPUTY_UNREACHABLE;
    deputy_probe_answer answer = {.kind = DEPUTY_PROBE_NO_TOKEN};
    /* a name that cannot be asked about is not allowed either: there is a verdict for everything */
    if (deputy_check_auth(host->engine, llm, NULL, &verdict, &answer, &error) != DEPUTY_OK) {
        verdict = DEPUTY_UNREACHABLE;
        complain(host->options->command, "%s", error.message);
    } else {
        explain(host, llm, verdict, &answer);
    }
    puts(deputy_verdict_name(verdict));
    return verdict == DEPUTY_ALLOWED ? STATUS_OK : verdict == DEPUTY_FORBIDDEN ? STATUS_FORBIDDEN : STATUS_UNREACHABLE;
}

static int run(const struct options *options)
{
    struct host host;
    int status = host_open(options, &host);
    if (status == STATUS_OK)
        status = probe(&host, options->operands[0]);
    host_close(&host);
    return status;
}

const struct command probe_command = {
    .name = "probe",
    .summary = "ask the central whether you may see an LLM",
    .operands = "LLM",
    .n_operands = 1,
    .accepts = OPTION_CONFIG | OPTION_VERBOSE,
    .about = "Asks the central, with the configured token, and prints the verdict alone: allowed, forbidden or\n"
             "unreachable. Only when it is allowed may a local provider stand in for the LLM.\n",
    .exits = "  0  allowed\n  1  the configuration is not usable\n  2  wrong arguments\n  3  forbidden\n"
             "  4  unreachable: the central could not be asked, or gave no clear answer\n",
    .example = "deputy probe claude",
    .run = run,
};
