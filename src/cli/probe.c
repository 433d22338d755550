#include "host.h"

#include <stdio.h>

static void explain(const struct host *host, const char *llm, deputy_verdict verdict, const deputy_probe_answer *answer)
{
    if (!host->config.options.bearer_token)
        complain(host->options->command,
                 "%s: no token to ask with: set central.bearerToken or central.bearerTokenFile in %s", llm,
                 host->config.file);
    else if (host->options->verbose)
        fprintf(stderr, "deputy probe: %s: %s (probe: %s, status %d, %.1f ms)\n", llm, deputy_verdict_name(verdict),
                deputy_probe_kind_name(answer->kind), answer->status, (double)answer->us / 1000);
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
