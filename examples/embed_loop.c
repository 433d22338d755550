/* embed_loop.c - a host with a poll loop of its own: the engine is one more descriptor in it, with 100 runs at once.
 *
 *   cc embed_loop.c $(pkg-config --cflags --libs deputy) -o embed_loop
 *   DEPUTY_TOKEN=... DEPUTY_POLICY=.../router.lua ./embed_loop CENTRAL LLM LOCAL MODEL REQUEST    (see embed_sync.c)
 *
 * A line on stdin (Enter) cancels what is still on its way. Exit status: 0 all answered, 1 not all, 2 anything else. */
#include <deputy.h>
#include <deputy/provider.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUNS = 100 };
enum outcome { BY_CENTRAL, BY_LOCAL, FAILED, CANCELLED, OUTCOMES };

struct job {
    deputy_run_id run;
    enum outcome outcome;
    size_t bytes;
};

/* A host that cannot take bytes now answers DEPUTY_PAUSE and calls deputy_resume when it can. */
static int take_bytes(void *user, const void *bytes, size_t len)
{
    (void)bytes; /* a real host passes them on to whoever asked */
    ((struct job *)user)->bytes += len;
    return DEPUTY_OK;
}

static void take_end(void *user, const deputy_outcome *outcome)
{
    struct job *job = (struct job *)user;

    if (outcome->result == DEPUTY_RESULT_OK)
        job->outcome = outcome->failover ? BY_LOCAL : BY_CENTRAL;
    else
        job->outcome = outcome->result == DEPUTY_RESULT_CANCELLED ? CANCELLED : FAILED;
}

/* One turn: wait for the engine and for stdin, whichever comes first. */
static void turn(deputy_engine *engine, struct pollfd fds[2], const struct job *jobs)
{
    char line[64];

    if (poll(fds, 2, deputy_timeout(engine)) > 0 && fds[1].revents != 0) {
        if (read(fds[1].fd, line, sizeof(line)) <= 0)
            fds[1].fd = -1; /* its end: poll looks over it */
        else
            for (int i = 0; i < RUNS; i++)
                deputy_cancel(engine, jobs[i].run); /* of a run that has ended: no error */
    }
    deputy_pump(engine); /* after each poll, readable or not */
}

static int add_local(deputy_engine *engine, char **argv, deputy_error *error)
{
    deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *local;
    int code;

    options.name = "local";
    options.url = argv[3];
    options.model = argv[4];
    if ((code = deputy_openai_new(&options, &local, error)) == DEPUTY_OK &&
        (code = deputy_register(engine, local, error)) != DEPUTY_OK)
        deputy_provider_unref(local); /* not taken over */
    return code == DEPUTY_OK ? deputy_register_failover(engine, argv[2], "local", error) : code;
}

int main(int argc, char **argv)
{
    static struct job jobs[RUNS];
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    const char *policy = getenv("DEPUTY_POLICY");
    deputy_engine *engine = NULL;
    deputy_error error;
    int count[OUTCOMES] = {0}, turns = 0, code;

    if (argc != 6) {
        fprintf(stderr, "usage: DEPUTY_TOKEN=... %s CENTRAL LLM LOCAL MODEL REQUEST\n", argv[0]);
        return 2;
    }
    options.central_url = argv[1];
    options.bearer_token = getenv("DEPUTY_TOKEN");
    request.llm = argv[2];
    request.body = argv[5]; /* borrowed by every run until its end */
    request.body_len = strlen(argv[5]);
    sink.on_bytes = take_bytes;
    sink.on_end = take_end;
    if ((code = deputy_engine_new(&options, &engine, &error)) == DEPUTY_OK &&
        (code = deputy_load_policy(engine, policy ? policy : "lua/router.lua", &error)) == DEPUTY_OK)
        code = add_local(engine, argv, &error);
    for (int i = 0; i < RUNS && code == DEPUTY_OK; i++) {
        sink.user = &jobs[i];
        code = deputy_start(engine, &request, &sink, &jobs[i].run, &error);
    }
    if (code != DEPUTY_OK) {
        fprintf(stderr, "%s: %s\n", deputy_strerror(code), error.message);
        deputy_engine_free(engine); /* ends what was started */
        return 2;
    }
    struct pollfd fds[2] = {{deputy_fd(engine), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    for (; deputy_in_flight(engine) > 0; turns++)
        turn(engine, fds, jobs);
    for (int i = 0; i < RUNS; i++)
        count[jobs[i].outcome]++;
    printf("%d runs: %d answered by the central, %d by the local server, %d failed, %d cancelled; %d turns\n", RUNS,
           count[BY_CENTRAL], count[BY_LOCAL], count[FAILED], count[CANCELLED], turns);
    deputy_engine_free(engine);
    return count[BY_CENTRAL] + count[BY_LOCAL] == RUNS ? 0 : 1;
}
