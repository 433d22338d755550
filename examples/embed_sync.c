/* embed_sync.c - a host that asks and waits.
 *
 *   cc embed_sync.c $(pkg-config --cflags --libs deputy) -o embed_sync
 *   DEPUTY_TOKEN=... DEPUTY_POLICY=.../router.lua ./embed_sync CENTRAL LLM LOCAL MODEL REQUEST
 *
 * CENTRAL  the central's URL                    http://127.0.0.1:7070
 * LLM      the name of one of its LLMs          claude
 * LOCAL    an OpenAI-compatible local server    http://127.0.0.1:8000/v1
 * MODEL    the name of its model                qwen3
 * REQUEST  as for /v1/chat/completions          '{"model":"claude","messages":[{"role":"user","content":"Hi"}]}'
 *
 * The answer goes to stdout, what happened to stderr. Exit status: 0 answered, 1 the central's error, 2 anything else.
 */
#include <deputy.h>
#include <deputy/provider.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Registers the local server and lets it stand in for llm. */
static int add_local(deputy_engine *engine, const char *llm, const char *url, const char *model, deputy_error *error)
{
    deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *local;
    int code;

    options.name = "local";
    options.url = url;
    options.model = model; /* what the request calls "model" is the central's name for it */
    if ((code = deputy_openai_new(&options, &local, error)) == DEPUTY_OK &&
        (code = deputy_register(engine, local, error)) != DEPUTY_OK)
        deputy_provider_unref(local); /* not taken over */
    return code == DEPUTY_OK ? deputy_register_failover(engine, llm, "local", error) : code;
}

static void tell(const deputy_reply *reply)
{
    const deputy_outcome *outcome = &reply->outcome;

    for (size_t i = 0; i < outcome->n_trace; i++) {
        const deputy_trace *step = &outcome->trace[i];
        fprintf(stderr, "%-8s %-10s status %d, %.1f ms\n", deputy_leg_name(step->leg), step->kind, step->status,
                (double)(step->end_us - step->start_us) / 1000.0);
    }
    if (outcome->probed)
        fprintf(stderr, "the central's word: %s\n", deputy_verdict_name(outcome->verdict));
    if (outcome->result == DEPUTY_RESULT_OK)
        fprintf(stderr, "answered by: %s\n", outcome->failover ? outcome->via : "central");
    else if (outcome->failure)
        fprintf(stderr, "failed: %s\n", outcome->failure->message);
    if (reply->body_len > 0)
        printf("%.*s\n", (int)reply->body_len, reply->body);
}

int main(int argc, char **argv)
{
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    const char *policy = getenv("DEPUTY_POLICY");
    deputy_engine *engine = NULL;
    deputy_error error;
    int code;

    if (argc != 6) {
        fprintf(stderr, "usage: DEPUTY_TOKEN=... %s CENTRAL LLM LOCAL MODEL REQUEST\n", argv[0]);
        return 2;
    }
    options.central_url = argv[1];
    options.bearer_token = getenv("DEPUTY_TOKEN"); /* not an argument: those can be read by everybody on the machine */
    request.llm = argv[2];
    request.body = argv[5];
    request.body_len = strlen(argv[5]);
    code = deputy_engine_new(&options, &engine, &error);
    if (code == DEPUTY_OK)
        code = deputy_load_policy(engine, policy ? policy : "lua/router.lua", &error);
    if (code == DEPUTY_OK)
        code = add_local(engine, argv[2], argv[3], argv[4], &error);
    if (code == DEPUTY_OK)
        code = deputy_run(engine, &request, &reply, &error);
    if (code == DEPUTY_OK || code == DEPUTY_EFAILED)
        tell(&reply);
    else
        fprintf(stderr, "%s: %s\n", deputy_strerror(code), error.message);
    deputy_reply_clear(&reply);
    deputy_engine_free(engine);
    return code == DEPUTY_OK ? 0 : code == DEPUTY_EFAILED ? 1 : 2;
}
