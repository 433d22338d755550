/* provider_in_c.c - providers of one's own, in C: one that has its answer at hand, and one that takes its time on a
 * thread where it may wait and answers in chunks, as a model within the process does.
 *
 *   cc provider_in_c.c $(pkg-config --cflags --libs deputy) -o provider_in_c
 *   DEPUTY_TOKEN=... DEPUTY_POLICY=.../router.lua ./provider_in_c CENTRAL LLM at-once|slow
 *
 * The answer goes to stdout as it comes. Exit status: 0 answered, 1 the central's error, 2 anything else. */
#include <deputy.h>
#include <deputy/provider.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* At once: the call has ended before complete returns. */
static int answer_at_once(void *self, deputy_call *call, const deputy_request *request)
{
    const char *answer = (const char *)self;

    (void)request; /* its body is the caller's JSON */
    return deputy_reply_json(call, answer, strlen(answer));
}

/* Slowly: deputy_reply_bytes waits when the reader is slow, and says when nobody wants the rest. */
static int answer_slowly(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_header head[] = {{"content-type", "text/event-stream"}};
    const struct timespec thinking = {0, 20 * 1000 * 1000};
    const char *const *words = (const char *const *)self;
    char event[256];
    int code = deputy_reply_head(call, 200, head, 1);

    (void)request;
    for (; *words && code == DEPUTY_OK; words++) {
        nanosleep(&thinking, NULL);
        snprintf(event, sizeof(event), "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"}}]}\n\n",
                 *words);
        code = deputy_reply_bytes(call, event, strlen(event));
    }
    if (code == DEPUTY_OK)
        code = deputy_reply_bytes(call, "data: [DONE]\n\n", 14);
    return code == DEPUTY_OK ? deputy_reply_end(call) : code;
}

static char answer[] = "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":"
                       "{\"role\":\"assistant\",\"content\":\"At once.\"}}]}";
static const char *words[] = {"One ", "thing ", "at ", "a ", "time.", NULL};

/* Further fields: list_models, is_available, cancel, resume, destroy, primary_failed, withdrawn. */
static const deputy_provider_vtable kinds[2] = {
    {DEPUTY_PROVIDER_ABI, sizeof(kinds[0]), 0, answer_at_once, NULL, NULL, NULL, NULL, NULL, NULL, NULL},
    {DEPUTY_PROVIDER_ABI, sizeof(kinds[0]), DEPUTY_PROVIDER_BLOCKS, answer_slowly, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL}};

static int print_bytes(void *user, const void *bytes, size_t len)
{
    (void)user;
    return fwrite(bytes, 1, len, stdout) == len && fflush(stdout) == 0 ? DEPUTY_OK : DEPUTY_EIO;
}

static void note_end(void *user, const deputy_outcome *outcome)
{
    *(int *)user = outcome->result == DEPUTY_RESULT_OK ? 0 : 1;
    if (outcome->result == DEPUTY_RESULT_OK)
        fprintf(stderr, "answered by: %s\n", outcome->failover ? outcome->via : "central");
    else
        fprintf(stderr, "failed: %s\n", outcome->failure->message);
}

int main(int argc, char **argv)
{
    const bool slowly = argc == 4 && strcmp(argv[3], "slow") == 0;
    const char *body = slowly ? "{\"messages\":[],\"stream\":true}" : "{\"messages\":[]}";
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    const char *policy = getenv("DEPUTY_POLICY");
    deputy_engine *engine = NULL;
    deputy_provider *mine;
    deputy_error error;
    int status = 2, code;

    if (argc != 4 || (!slowly && strcmp(argv[3], "at-once") != 0)) {
        fprintf(stderr, "usage: DEPUTY_TOKEN=... %s CENTRAL LLM at-once|slow\n", argv[0]);
        return 2;
    }
    options.central_url = argv[1];
    options.bearer_token = getenv("DEPUTY_TOKEN");
    request.llm = argv[2];
    request.body = body;
    request.body_len = strlen(body);
    sink.user = &status;
    sink.on_bytes = print_bytes;
    sink.on_end = note_end;
    if ((code = deputy_engine_new(&options, &engine, &error)) == DEPUTY_OK &&
        (code = deputy_load_policy(engine, policy ? policy : "lua/router.lua", &error)) == DEPUTY_OK)
        code = deputy_provider_new("mine", &kinds[slowly], slowly ? (void *)words : answer, &mine, &error);
    if (code == DEPUTY_OK && (code = deputy_register(engine, mine, &error)) != DEPUTY_OK)
        deputy_provider_unref(mine); /* not taken over */
    if (code == DEPUTY_OK)
        code = deputy_register_failover(engine, argv[2], "mine", &error);
    if (code == DEPUTY_OK)
        code = deputy_start(engine, &request, &sink, NULL, &error);
    if (code != DEPUTY_OK)
        fprintf(stderr, "%s: %s\n", deputy_strerror(code), error.message);
    while (engine && deputy_in_flight(engine) > 0) {
        struct pollfd fd = {deputy_fd(engine), POLLIN, 0};
        poll(&fd, 1, deputy_timeout(engine));
        deputy_pump(engine);
    }
    deputy_engine_free(engine);
    return status;
}
