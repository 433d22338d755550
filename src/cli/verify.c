#include "config.h"
#include "options.h"

#include <stdlib.h>

static int verify(const struct options *options, const char *script, const deputy_options *engine)
{
    deputy_verify_options o = DEPUTY_INIT(deputy_verify_options);
    deputy_error error = {0};
    char *report;
    bool fail_closed;
    o.depth = options->depth;
    o.format = options->json ? "json" : options->markdown ? "markdown" : options->verbose ? "text" : "brief";
    o.policy_settings = engine ? engine->policy_settings : NULL;
    o.gate = engine ? engine->gate : DEPUTY_GATE_PROBE;
    o.timeout_ms = options->timeout_ms;
    o.permit_ms = engine ? engine->permit_ms : 0;
    int code = deputy_verify_policy(&o, script, &report, &fail_closed, &error);
    if (report)
        fputs(report, stdout);
    free(report);
    if (code != DEPUTY_OK)
        return complain(options->command, "%s", error.message);
    return fail_closed ? STATUS_OK : STATUS_FAILED;
}

static int run(const struct options *options)
{
    char script[4096];
    if (options->json && options->markdown)
        return usage_error(options->command, "--json and --markdown do not go together");
    if (options->n_operands > 0 && !options->config)
        return verify(options, options->operands[0], NULL);
    if (!config_exists(options)) {
        int status = config_default_script(options, script, sizeof(script));
        return status == STATUS_OK ? verify(options, script, NULL) : status;
    }
    struct config config;
    int status = config_load(options, stderr, NULL, &config);
    if (status == STATUS_OK)
        status = verify(options, options->n_operands > 0 ? options->operands[0] : config.script, &config.options);
    config_free(&config);
    return status;
}

const struct command verify_command = {
    .name = "verify",
    .summary = "try a policy in every simulated world, and say whether it fails closed",
    .operands = "[SCRIPT]",
    .n_operands = 1,
    .n_optional = 1,
    .accepts = OPTION_CONFIG | OPTION_DEPTH | OPTION_JSON | OPTION_MARKDOWN | OPTION_TIMEOUT | OPTION_VERBOSE,
    .about = "Runs a policy script against a simulated world, without any network: every outcome of the primary, the\n"
             "probe and the local providers, several requests in a row. Prints the decision table that it found and\n"
             "every way in which the script does not fail closed, each with the shortest sequence that shows it.\n"
             "-v adds what comes of requests before: after which of them the next one is decided otherwise.\n\n"
             "With SCRIPT alone the default settings count; with -c FILE those of that configuration. Without SCRIPT\n"
             "it is the configuration's script, or the one that came with deputy.\n",
    .exits = "  0  fails closed in every world that was looked at\n  1  it does not, or it could not be run\n"
             "  2  wrong arguments\n",
    .example = "deputy verify my-router.lua --depth 2",
    .run = run,
};
