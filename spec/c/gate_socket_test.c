/* The gate while things happen: cancelled, another policy loaded, the permission revoked while the call waits for its
 * turn, for a thread, for a connection. Bytes are counted at a raw listener in place of the local provider, and a clean
 * 2xx in the central's own log. The policy does not care what the central said. */
#include "deputy/provider.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include "loopback.h"
#include <sys/syscall.h>

/* ---- the central ------------------------------------------------------------------------------------------------ */

/* The LLM's name says how its probes are answered, in order: "ok.403". A number behind that makes it a new name. */
static const struct {
    const char *word, *bytes;
} answers[] = {
    {"ok", "HTTP/1.1 204 No Content\r\n\r\n"},
    {"html", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"},
    {"401", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"},
    {"403", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"},
    {"404", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
    {"500", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"},
    {"302", "HTTP/1.1 302 Found\r\nLocation: /api/v1/llms/ok\r\nContent-Length: 0\r\n\r\n"},
    {"garbage", "\1\2\3 200 OK\r\n\r\n"},
    {"close", ""},
    {"reset", NULL},
    {"stall", NULL},
    {"cut", "HTTP/1.1 200 OK\r\nContent-"},
    {"part", "HTTP/1.1 200 OK\r\n"},
    {"early", "HTTP/1.1 103 Early Hints\r\n\r\n"},
    {"bomb", NULL},
};
enum { ANSWERS = sizeof(answers) / sizeof(answers[0]) };

static struct {
    pthread_mutex_t lock;
    int clean;                /* 2xx answered */
    deputy_engine *cancel_in; /* cancelled when a probe has come, before it is answered */
    deputy_run_id cancel_run;
    atomic_bool hold; /* probes wait for this to become false */
    atomic_int probes_seen;
    atomic_bool late_seen, late_free;
} central_log = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *nth_word(const char *name, int n, char *word, size_t size)
{
    size_t len = strcspn(name, ".");
    for (; n > 1 && name[len] == '.'; n--) {
        name += len + 1;
        len = strcspn(name, ".");
    }
    snprintf(word, size, "%.*s", (int)len, name);
    return word;
}

static void send_answer(struct server *s, int fd, const char *word)
{
    size_t i = 0;
    while (i < ANSWERS && strcmp(answers[i].word, word) != 0)
        i++;
    if (i == ANSWERS)
        return;
    if (answers[i].bytes)
        send_text(fd, answers[i].bytes);
    if (strcmp(word, "reset") == 0)
        reset_connection(fd);
    if (strcmp(word, "bomb") == 0) {
        send_text(fd, "HTTP/1.1 200 OK\r\n");
        for (int k = 0; k < 200; k++) {
            char line[1001];
            memset(line, 'y', sizeof(line) - 1);
            memcpy(line, "X: ", 3);
            memcpy(line + 998, "\r\n", 3);
            send_text(fd, line);
        }
    }
    if (strcmp(word, "stall") == 0 || strcmp(word, "part") == 0 || strcmp(word, "early") == 0)
        drain_connection(s, fd);
}

/* Each run has an LLM of its own, so the log of one name is the log of one run. Under the lock. */
static int n_probes_of(const char *llm)
{
    static struct {
        char llm[64];
        int n;
    } seen[256];
    int i = 0;
    while (i < 255 && seen[i].n > 0 && strcmp(seen[i].llm, llm) != 0)
        i++;
    snprintf(seen[i].llm, sizeof(seen[i].llm), "%s", llm);
    return ++seen[i].n;
}

static void wait_for_flag(const atomic_bool *flag)
{
    for (int i = 0; i < 4000 && !atomic_load(flag); i++)
        nap_ms(1);
}

/* A yes that comes when a question about "free" has been heard; one about "after" is answered when the other waits. */
static const char *keep_order(const char *word)
{
    if (strcmp(word, "late") == 0) {
        atomic_store(&central_log.late_seen, true);
        wait_for_flag(&central_log.late_free);
        return "ok";
    }
    if (strcmp(word, "after") == 0)
        wait_for_flag(&central_log.late_seen);
    if (strcmp(word, "free") == 0)
        atomic_store(&central_log.late_free, true);
    return strcmp(word, "after") == 0 || strcmp(word, "free") == 0 ? "404" : word;
}

static void serve_central(struct server *s, int fd)
{
    char request[8192], llm[64], word[32];
    static const char down[] = "HTTP/1.1 503 Down\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for (;;) {
        if (!read_request(s, fd, request, sizeof(request)))
            return;
        if (strncmp(request, "HEAD ", 5) != 0) {
            send_text(fd, down);
            continue;
        }
        if (sscanf(request, "HEAD /api/v1/llms/%63[^ ]", llm) != 1)
            return;
        if (llm[0] == 's' && strspn(llm + 1, "0123456789") == 3) { /* a status line, and no more */
            snprintf(request, sizeof(request), "HTTP/1.1 %s Whatever\r\n", llm + 1);
            send_text(fd, request);
            drain_connection(s, fd);
            return;
        }
        pthread_mutex_lock(&central_log.lock);
        nth_word(llm, n_probes_of(llm), word, sizeof(word));
        if (central_log.cancel_in)
            deputy_cancel(central_log.cancel_in, central_log.cancel_run);
        if (strcmp(word, "ok") == 0)
            central_log.clean++;
        pthread_mutex_unlock(&central_log.lock);
        atomic_fetch_add(&central_log.probes_seen, 1);
        for (int i = 0; i < 4000 && atomic_load(&central_log.hold); i++)
            nap_ms(1);
        send_answer(s, fd, keep_order(word));
        return;
    }
}

static struct server central, local;

static void serve_local(struct server *s, int fd)
{
    char request[8192];
    if (read_request(s, fd, request, sizeof(request)))
        send_text(fd, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
}

/* ---- the host --------------------------------------------------------------------------------------------------- */

static const char evil[] = "local M = {}\n"
                           "function M.should_failover() return true end\n"
                           "function M.verdict() return 'allowed' end\n"
                           "function M.route(run)\n"
                           "  local _, failure = run:primary()\n"
                           "  run:probe()\n"
                           "  local answer = run:complete(run:failover())\n"
                           "  if answer then return answer end\n"
                           "  return nil, failure\n"
                           "end\n"
                           "return M\n";

struct ended {
    int n;
    deputy_result result;
    deputy_failure failure;
    int status;
    bool failover;
};

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct ended *e = user;
    e->n++;
    e->result = outcome->result;
    e->failover = outcome->failover;
    if (outcome->failure)
        e->failure = *outcome->failure;
}

static void on_head(void *user, int status, const deputy_header *headers, size_t n)
{
    (void)headers, (void)n;
    ((struct ended *)user)->status = status;
}

static deputy_engine *make_engine_with(const char *policy, uint32_t permit_ms, uint32_t probe_ms)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    deputy_engine *engine;
    o.central_url = central.url;
    o.bearer_token = "tok-alice";
    o.permit_ms = permit_ms;
    o.verify = DEPUTY_VERIFY_OFF; /* it would not let this policy in */
    o.timeouts.probe_ms = probe_ms;
    o.timeouts.connect_ms = 3000;
    o.timeouts.total_ms = 5000;
    assert_int_equal(deputy_engine_new(&o, &engine, NULL), DEPUTY_OK);
    assert_int_equal(deputy_load_policy_text(engine, "evil", policy, strlen(policy), NULL), DEPUTY_OK);
    return engine;
}

static deputy_engine *make_engine(uint32_t permit_ms)
{
    return make_engine_with(evil, permit_ms, 80);
}

static void stand_in(deputy_engine *engine, const char *llm, deputy_provider *provider)
{
    char name[32];
    snprintf(name, sizeof(name), "%s", deputy_provider_name(provider));
    if (deputy_register(engine, provider, NULL) != DEPUTY_OK)
        deputy_provider_unref(provider);
    assert_int_equal(deputy_register_failover(engine, llm, name, NULL), DEPUTY_OK);
}

static deputy_provider *openai_at(const char *url)
{
    deputy_openai_options o = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *provider;
    char base[80];
    snprintf(base, sizeof(base), "%s/v1", url);
    o.name = "local";
    o.url = base;
    assert_int_equal(deputy_openai_new(&o, &provider, NULL), DEPUTY_OK);
    return provider;
}

static deputy_run_id start(deputy_engine *engine, const char *llm, struct ended *ended)
{
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    deputy_run_id id;
    request.llm = llm;
    request.body = "{\"model\":\"m\"}";
    request.body_len = strlen(request.body);
    sink.user = ended;
    sink.on_head = on_head;
    sink.on_end = on_end;
    assert_int_equal(deputy_start(engine, &request, &sink, &id, NULL), DEPUTY_OK);
    return id;
}

static void turn(deputy_engine *engine)
{
    int ms = deputy_timeout(engine);
    struct pollfd p = {.fd = deputy_fd(engine), .events = POLLIN};
    poll(&p, 1, ms < 0 || ms > 5 ? 5 : ms);
    deputy_pump(engine);
}

/* Turns until this is so; five seconds at most, however slow the machine is. */
#define TURN_UNTIL(engine, condition)                                                                                  \
    for (time_t begun_at = time(NULL); !(condition) && time(NULL) - begun_at < 6;)                                     \
    turn(engine)

static void turn_until(deputy_engine *engine, const int *n)
{
    TURN_UNTIL(engine, *n);
    assert_int_equal(*n, 1);
}

static void expect_primary_error(const struct ended *e)
{
    assert_int_equal(e->n, 1);
    assert_int_equal(e->result, DEPUTY_RESULT_FAILED);
    assert_int_equal(e->status, 503);
    assert_int_equal(e->failure.status, 503);
    assert_false(e->failover);
}

/* ---- a provider that waits for its turn ---------------------------------------------------------------------------
 */

static deputy_call *waiting;
static int turns_taken;

static int wait_for_turn(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self, (void)request;
    waiting = call;
    return DEPUTY_OK;
}

static void stop_waiting(void *self, deputy_call *call)
{
    (void)self, (void)call;
    waiting = NULL;
}

static void dial_local(void)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)local.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        send_text(fd, "POST / HTTP/1.1\r\n\r\n");
    close(fd);
}

/* Its turn has come. */
static void take_turn(void)
{
    deputy_call *call = waiting;
    waiting = NULL;
    if (!call || deputy_call_admit(call) != DEPUTY_OK)
        return;
    turns_taken++;
    dial_local();
    deputy_reply_fail(call, NULL);
}

static const deputy_provider_vtable queue_vtable = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(queue_vtable), .complete = wait_for_turn, .cancel = stop_waiting};

/* ---- a provider that waits for a thread ----------------------------------------------------------------------------
 */

static atomic_int busy_threads;
static atomic_bool release_threads;

static int block(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self;
    if (strcmp(request->llm, "busy") != 0) {
        dial_local();
    } else {
        atomic_fetch_add(&busy_threads, 1);
        while (!atomic_load(&release_threads))
            nap_ms(1);
    }
    return deputy_reply_fail(call, NULL);
}

static const deputy_provider_vtable blocking_vtable = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(blocking_vtable), .flags = DEPUTY_PROVIDER_BLOCKS, .complete = block};

static deputy_provider *provider_of(const char *name, const deputy_provider_vtable *vtable)
{
    deputy_provider *provider;
    assert_int_equal(deputy_provider_new(name, vtable, NULL, &provider, NULL), DEPUTY_OK);
    return provider;
}

/* ---- what happens ------------------------------------------------------------------------------------------------ */

static const char *new_name(char *llm, size_t size, const char *first, const char *second)
{
    static int number;
    snprintf(llm, size, "%s.%s.%d", first, second, ++number);
    return llm;
}

struct scene {
    const char *answer; /* of the probe that decides */
    void (*play)(const char *answer, const char *llm);
};

static int clean_2xx(void)
{
    pthread_mutex_lock(&central_log.lock);
    int n = central_log.clean;
    pthread_mutex_unlock(&central_log.lock);
    return n;
}

static void cancel_when_probed(deputy_engine *engine, deputy_run_id run)
{
    pthread_mutex_lock(&central_log.lock);
    central_log.cancel_in = engine;
    central_log.cancel_run = run;
    pthread_mutex_unlock(&central_log.lock);
}

/* Cancelled from the central's thread, in the moment the probe is there and not yet answered. */
static void play_cancel(const char *answer, const char *llm)
{
    struct ended ended = {0};
    deputy_engine *engine = make_engine(0);
    (void)answer;
    stand_in(engine, llm, openai_at(local.url));
    cancel_when_probed(engine, start(engine, llm, &ended));
    turn_until(engine, &ended.n);
    cancel_when_probed(NULL, 0);
    for (int i = 0; i < 5; i++)
        turn(engine);
    assert_int_equal(ended.n, 1);
    /* its answer may have been quicker than the cancel */
    assert_true(ended.result == DEPUTY_RESULT_CANCELLED || ended.result == DEPUTY_RESULT_FAILED);
    deputy_engine_free(engine);
}

/* A stricter policy, a broken one and this one again are loaded while the probe is under way. */
static void play_reload(const char *answer, const char *llm)
{
    static const char strict[] = "return { route = function(run) return run:primary() end,"
                                 " should_failover = function() end, verdict = function() end }";
    struct ended ended = {0};
    deputy_engine *engine = make_engine(0);
    (void)answer;
    stand_in(engine, llm, openai_at(local.url));
    atomic_store(&central_log.hold, true);
    start(engine, llm, &ended);
    TURN_UNTIL(engine, atomic_load(&central_log.probes_seen) > 0);
    assert_int_equal(deputy_load_policy_text(engine, "strict", strict, sizeof(strict) - 1, NULL), DEPUTY_OK);
    assert_int_equal(deputy_load_policy_text(engine, "broken", "retrun", 6, NULL), DEPUTY_EPOLICY);
    assert_int_equal(deputy_load_policy_text(engine, "evil", evil, sizeof(evil) - 1, NULL), DEPUTY_OK);
    atomic_store(&central_log.hold, false);
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

/* The first probe allows; until the provider's turn comes the permit is old, and the central says something else. */
static void play_queue(const char *answer, const char *unused)
{
    char llm[64];
    struct ended ended = {0};
    deputy_engine *engine = make_engine(60);
    (void)unused;
    new_name(llm, sizeof(llm), "ok", answer);
    stand_in(engine, llm, provider_of("queue", &queue_vtable));
    waiting = NULL;
    start(engine, llm, &ended);
    TURN_UNTIL(engine, waiting);
    assert_non_null(waiting);
    nap_ms(70);
    take_turn();
    TURN_UNTIL(engine, waiting || ended.n);
    take_turn(); /* asked a second time when the central allowed it again */
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

/* The same while every thread is taken. */
static void play_threads(const char *answer, const char *unused)
{
    char llm[64];
    struct ended ended = {0}, busy[4] = {{0}};
    deputy_engine *engine = make_engine(60);
    deputy_provider *blocking = provider_of("blocking", &blocking_vtable);
    (void)unused;
    new_name(llm, sizeof(llm), "ok", answer);
    stand_in(engine, llm, deputy_provider_ref(blocking));
    atomic_store(&busy_threads, 0);
    atomic_store(&release_threads, false);
    for (int k = 0; k < 4; k++) { /* as many threads as libuv has unless told otherwise */
        deputy_request request = DEPUTY_INIT(deputy_request);
        deputy_sink sink = DEPUTY_INIT(deputy_sink);
        request.llm = "busy";
        request.primary = blocking;
        sink.user = &busy[k];
        sink.on_end = on_end;
        assert_int_equal(deputy_start(engine, &request, &sink, NULL, NULL), DEPUTY_OK);
    }
    TURN_UNTIL(engine, atomic_load(&busy_threads) == 4);
    atomic_store(&central_log.probes_seen, 0);
    start(engine, llm, &ended);
    TURN_UNTIL(engine, atomic_load(&central_log.probes_seen) > 0);
    for (int i = 0; i < 10; i++)
        turn(engine);
    nap_ms(70);
    atomic_store(&release_threads, true);
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
    deputy_provider_unref(blocking);
}

static void play(void **state)
{
    const struct scene *scene = *state;
    bool good = strcmp(scene->answer, "ok") == 0;
    char llm[64];
    new_name(llm, sizeof(llm), scene->answer, scene->answer);
    atomic_store(&local.connections, 0);
    atomic_store(&local.bytes, 0);
    atomic_store(&central_log.probes_seen, 0);
    pthread_mutex_lock(&central_log.lock);
    central_log.clean = 0;
    pthread_mutex_unlock(&central_log.lock);
    scene->play(scene->answer, llm);
    for (int i = 0; i < 200 && good && scene->play != play_cancel && atomic_load(&local.bytes) == 0; i++)
        nap_ms(2);
    nap_ms(good ? 20 : 2); /* what is still on its way belongs to this one */
    for (int i = 0; i < 200 && atomic_load(&local.alive) > 0; i++)
        nap_ms(2);
    if (!good) {
        assert_int_equal(atomic_load(&local.connections), 0);
        assert_int_equal(atomic_load(&local.bytes), 0);
    } else if (scene->play != play_cancel) {
        assert_int_equal(atomic_load(&local.connections), 1);
        assert_true(clean_2xx() >= 1);
    } else {
        assert_true(atomic_load(&local.connections) <= clean_2xx());
    }
}

/* ---- answers in another order than the questions ------------------------------------------------------------------
 */

static void begin_order(void)
{
    atomic_store(&central_log.late_seen, false);
    atomic_store(&central_log.late_free, false);
    waiting = NULL;
    turns_taken = 0;
}

#define ROUTE(body)                                                                                                    \
    "return { should_failover = function() return true end, verdict = function() return 'allowed' end,\n"              \
    "  route = function(run)\n"                                                                                        \
    "    local _, failure = run:primary()\n" body "    return answer, failure\n"                                       \
    "  end }"

/* Asked between the leg's question and its answer: the central says no, and is heard. */
#define NEWER_NO                                                                                                       \
    "      function()\n"                                                                                               \
    "        run:probe{ llm = 'after.' .. run.llm }\n"                                                                 \
    "        run:probe()\n"                                                                                            \
    "        run:probe{ llm = 'free.' .. run.llm }\n"                                                                  \
    "      end,\n"

static void an_older_yes_that_comes_after_a_newer_no(void **state)
{
    static const char policy[] =
        ROUTE("    local answer = run:first{\n"
              "      function() run:probe() return run:complete(run:failover()) end,\n" NEWER_NO "    }\n");
    char llm[64];
    struct ended ended = {0};
    (void)state;
    begin_order();
    deputy_engine *engine = make_engine_with(policy, 5000, 5000);
    new_name(llm, sizeof(llm), "late", "403");
    stand_in(engine, llm, provider_of("queue", &queue_vtable));
    start(engine, llm, &ended);
    TURN_UNTIL(engine, waiting || ended.n);
    assert_null(waiting);
    assert_true(atomic_load(&central_log.late_free));
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

static void a_renewal_whose_yes_comes_after_a_newer_no(void **state)
{
    enum { PERMIT_MS = 400 };
    static const char policy[] =
        ROUTE("    run:probe()\n"
              "    local answer = run:first{\n"
              "      function() return run:complete(run:failover()) end,\n" NEWER_NO "    }\n");
    char llm[64];
    struct ended ended = {0};
    (void)state;
    begin_order();
    deputy_engine *engine = make_engine_with(policy, PERMIT_MS, 5000);
    new_name(llm, sizeof(llm), "ok", "late.403");
    stand_in(engine, llm, provider_of("queue", &queue_vtable));
    start(engine, llm, &ended);
    TURN_UNTIL(engine, waiting);
    nap_ms(PERMIT_MS + 10);
    take_turn();
    assert_int_equal(turns_taken, 0);
    TURN_UNTIL(engine, waiting || ended.n);
    assert_null(waiting);
    assert_true(atomic_load(&central_log.late_free));
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

/* The engine's own question is for the leg that grew old, not for another one. */
static void a_renewal_is_good_for_one_dispatch(void **state)
{
    enum { PERMIT_MS = 100 };
    static const char policy[] = ROUTE("    run:probe()\n"
                                       "    run:complete(run:failover())\n"
                                       "    local answer = run:complete(run:failover())\n");
    struct ended ended = {0};
    (void)state;
    begin_order();
    deputy_engine *engine = make_engine_with(policy, PERMIT_MS, 5000);
    stand_in(engine, "ok", provider_of("queue", &queue_vtable));
    start(engine, "ok", &ended);
    TURN_UNTIL(engine, waiting);
    nap_ms(PERMIT_MS + 10);
    take_turn();
    assert_int_equal(turns_taken, 0);
    for (int i = 0; i < 20 && turns_taken == 0 && !ended.n; i++) { /* a slow machine makes it old once more */
        TURN_UNTIL(engine, waiting || ended.n);
        take_turn();
    }
    assert_int_equal(turns_taken, 1);
    TURN_UNTIL(engine, waiting || ended.n);
    assert_null(waiting);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

/* ---- a machine that sleeps ----------------------------------------------------------------------------------------
 */

static atomic_int slept_s;

/* While it sleeps CLOCK_MONOTONIC stands still. */
__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *now)
{
    int code = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_BOOTTIME)
        now->tv_sec += atomic_load(&slept_s);
    return code;
}

static void the_lid_is_closed_while_it_waits_for_its_turn(void **state)
{
    char llm[64];
    struct ended ended = {0};
    (void)state;
    begin_order();
    deputy_engine *engine = make_engine(0);
    new_name(llm, sizeof(llm), "ok", "403");
    stand_in(engine, llm, provider_of("queue", &queue_vtable));
    start(engine, llm, &ended);
    TURN_UNTIL(engine, waiting);
    atomic_store(&slept_s, 3600);
    take_turn();
    assert_int_equal(turns_taken, 0);
    turn_until(engine, &ended.n);
    expect_primary_error(&ended);
    deputy_engine_free(engine);
}

static int keep_counter(void *user, const char *name, double value)
{
    (void)name;
    *(double *)user = value;
    return 0;
}

/* A script that remembers a yes does so for as long as it says, by its own clock. */
static void a_script_sees_that_the_lid_was_closed(void **state)
{
    static const char policy[] = "local before\n" ROUTE("    local answer\n"
                                                        "    local left = run.deadline - now()\n"
                                                        "    if before then count('passed', now() - before) end\n"
                                                        "    if left < 4 or left > 5 then count('passed', 1e6) end\n"
                                                        "    before = now()\n");
    struct ended ended[2] = {{0}};
    double passed = 0;
    (void)state;
    deputy_engine *engine = make_engine_with(policy, 0, 80);
    for (int i = 0; i < 2; i++) {
        start(engine, "ok", &ended[i]);
        turn_until(engine, &ended[i].n);
        atomic_fetch_add(&slept_s, 3600);
    }
    deputy_list_counters(engine, keep_counter, &passed);
    assert_true(passed >= 3600 && passed < 3700);
    deputy_engine_free(engine);
}

/* ---- a connection that comes late ------------------------------------------------------------------------------- */

enum { FILLERS = 4 };

/* A listener whose queue is full: the kernel drops what comes, and tries again after a second. */
static void full_queue(struct server *s, int fillers[FILLERS])
{
    assert_true(server_listen(s, 0));
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < FILLERS; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fillers[i], (struct sockaddr *)&to, sizeof(to));
    }
}

static void revoked_while_it_waits_for_a_connection(void **state)
{
    struct server late = {.serve = serve_local};
    int fillers[FILLERS];
    struct ended ended[ANSWERS];
    char llm[ANSWERS][64];
    (void)state;
    memset(ended, 0, sizeof(ended));
    full_queue(&late, fillers);
    deputy_engine *engine = make_engine(300);
    for (int i = 1; i < ANSWERS; i++) {
        new_name(llm[i], sizeof(llm[i]), "ok", answers[i].word);
        stand_in(engine, llm[i], openai_at(late.url));
        start(engine, llm[i], &ended[i]);
    }
    for (int i = 0; i < 100; i++) /* half a second at most */
        turn(engine);
    for (int i = 0; i < FILLERS; i++)
        close(fillers[i]);
    listen(late.fd, 128);
    assert_true(server_accept(&late));
    for (int i = 1; i < ANSWERS; i++) {
        turn_until(engine, &ended[i].n);
        expect_primary_error(&ended[i]);
        assert_int_equal(ended[i].failure.kind, DEPUTY_FAILURE_STATUS);
    }
    assert_int_equal(atomic_load(&late.bytes), 0);
    assert_true(atomic_load(&late.connections) > FILLERS); /* they did connect */

    struct ended good = {0};
    stand_in(engine, "ok", openai_at(late.url));
    start(engine, "ok", &good);
    turn_until(engine, &good.n);
    assert_true(atomic_load(&late.bytes) > 0);
    deputy_engine_free(engine);
    server_stop(&late);
}

/* A transfer that times out may carry any status: none of them counts. */
static void every_status_of_a_transfer_that_times_out(void **state)
{
    enum { AT_ONCE = 125 };
    char llm[AT_ONCE][8];
    (void)state;
    deputy_engine *engine = make_engine(0);
    assert_int_equal(deputy_register(engine, openai_at(local.url), NULL), DEPUTY_OK);
    atomic_store(&local.connections, 0);
    for (int status = 0; status < 1000; status += AT_ONCE) {
        struct ended ended[AT_ONCE];
        memset(ended, 0, sizeof(ended));
        for (int i = 0; i < AT_ONCE; i++) {
            snprintf(llm[i], sizeof(llm[i]), "s%03d", (status + i) % 1000);
            assert_int_equal(deputy_register_failover(engine, llm[i], "local", NULL), DEPUTY_OK);
            start(engine, llm[i], &ended[i]);
        }
        for (int i = 0; i < AT_ONCE; i++) {
            turn_until(engine, &ended[i].n);
            expect_primary_error(&ended[i]);
        }
    }
    assert_int_equal(atomic_load(&local.connections), 0);
    deputy_engine_free(engine);
}

static int begin(void **state)
{
    (void)state;
    return server_start(&central, serve_central, NULL) && server_start(&local, serve_local, NULL) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    server_stop(&central);
    server_stop(&local);
    return 0;
}

int main(void)
{
    static const struct {
        const char *name;
        void (*play)(const char *, const char *);
    } plays[] = {
        {"cancelled while probing", play_cancel},
        {"another policy while probing", play_reload},
        {"revoked while it waits for its turn", play_queue},
        {"revoked while it waits for a thread", play_threads},
    };
    enum { PLAYS = sizeof(plays) / sizeof(plays[0]) };
    static struct scene scenes[PLAYS * ANSWERS];
    static char names[PLAYS * ANSWERS][80];
    static const struct CMUnitTest more[] = {
        cmocka_unit_test(revoked_while_it_waits_for_a_connection),
        cmocka_unit_test(every_status_of_a_transfer_that_times_out),
        cmocka_unit_test(an_older_yes_that_comes_after_a_newer_no),
        cmocka_unit_test(a_renewal_whose_yes_comes_after_a_newer_no),
        cmocka_unit_test(a_renewal_is_good_for_one_dispatch),
        cmocka_unit_test(the_lid_is_closed_while_it_waits_for_its_turn),
        cmocka_unit_test(a_script_sees_that_the_lid_was_closed),
    };
    static struct CMUnitTest tests[PLAYS * ANSWERS + sizeof(more) / sizeof(more[0])];
    for (size_t i = 0; i < PLAYS * ANSWERS; i++) {
        scenes[i] = (struct scene){answers[i % ANSWERS].word, plays[i / ANSWERS].play};
        snprintf(names[i], sizeof(names[i]), "%s, probe: %s", plays[i / ANSWERS].name, scenes[i].answer);
        tests[i] = (struct CMUnitTest){names[i], play, NULL, NULL, &scenes[i]};
    }
    memcpy(&tests[PLAYS * ANSWERS], more, sizeof(more));
    return cmocka_run_group_tests_name("gate over sockets", tests, begin, end);
}
