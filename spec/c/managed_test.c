/* The life of a model server, with real processes: deputy-supervisor, and servers that misbehave on demand. */
#include "managed_fixture.h"

#include "managed/family.h"
#include "managed/life.h"
#include "managed/port.h"
#include "managed/ring.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* What is to be, written a second time: the state that follows by its first two letters (ST is starting, SD stopped, SG
 * stopping), then the action. "." nothing happens, "-" cannot happen. */
static void every_pair_of_state_and_event(void **state)
{
    static const struct {
        const char *event, *row[LIFE_STATES];
    } want[] = {
        {"CALLER", {"ST launch", ".", ".", "RE serve", ".", "FA refuse"}},
        {"RETRY", {"-", "-", "-", "-", "-", "ST launch"}},
        {"START", {"ST launch", ".", ".", "RE serve", ".", "ST launch"}},
        {"HEALTHY", {"-", "RE serve", ".", ".", "-", "-"}},
        {"DEAF", {"-", "-", "SG end", "SG end", "-", "-"}},
        {"LATE", {"-", "SG end", "-", "SG end", "SG kill", "-"}},
        {"IDLE", {"-", "-", "DR drain", "-", "-", "-"}},
        {"STOP", {".", "SG end", "DR drain", ".", ".", "SD ."}},
        {"RESTART", {"ST launch", "SG end", "DR drain", ".", ".", "ST launch"}},
        {"DRAINED", {"-", "-", "-", "SG end", "-", "-"}},
        {"DIED", {"-", "SG end", "SG end", "SG end", ".", "-"}},
        {"GONE", {"-", "-", "-", "-", "SD .", "-"}},
        {"AGAIN", {"-", "-", "-", "-", "ST launch", "-"}},
        {"HOPELESS", {"-", "-", "-", "-", "FA refuse", "-"}},
    };
    static const char *const states[] = {"SD", "ST", "RE", "DR", "SG", "FA"};
    static const char *const actions[] = {"-", ".", "launch", "serve", "refuse", "drain", "end", "kill"};
    char got[32];
    (void)state;
    assert_int_equal(sizeof(want) / sizeof(want[0]), LIFE_EVENTS_N);
    for (int e = 0; e < LIFE_EVENTS_N; e++) {
        assert_string_equal(life_event_name((enum life_event)e), want[e].event);
        for (int s = 0; s < LIFE_STATES; s++) {
            struct life_step step = life_step((deputy_managed_state)s, (enum life_event)e);
            bool quiet = step.action == LIFE_NEVER || (step.action == LIFE_NOTHING && (int)step.to == s);
            if (quiet)
                assert_int_equal(step.to, s);
            snprintf(got, sizeof(got), "%s%s%s", quiet ? "" : states[step.to], quiet ? "" : " ", actions[step.action]);
            if (strcmp(got, want[e].row[s]) != 0)
                fail_msg("%s while %s: expected '%s', got '%s'", want[e].event,
                         deputy_managed_state_name((deputy_managed_state)s), want[e].row[s], got);
        }
    }
}

static void states_have_names(void **state)
{
    (void)state;
    assert_string_equal(deputy_managed_state_name(DEPUTY_MANAGED_DRAINING), "draining");
    assert_string_equal(deputy_managed_state_name((deputy_managed_state)99), "no such state");
}

static void the_last_bytes_are_kept(void **state)
{
    static struct ring ring;
    static char bytes[3 * RING_BYTES], out[RING_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i % 251);
    size_t total = 0;
    for (size_t step = 1; total + step <= sizeof(bytes); step = step * 3 % 70001 + 1) {
        ring_add(&ring, bytes + total, step);
        total += step;
        size_t want = total < RING_BYTES ? total : RING_BYTES;
        assert_int_equal(ring_copy(&ring, out, sizeof(out)), want);
        assert_memory_equal(out, bytes + total - want, want);
        size_t few = want < 10 ? want : 10;
        assert_int_equal(ring_copy(&ring, out, 10), few);
        assert_memory_equal(out, bytes + total - few, few);
    }
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static void refused(deputy_managed_options o, const char *word)
{
    deputy_managed *m;
    deputy_error error = {0};
    assert_int_not_equal(deputy_managed_new(&o, &m, &error), DEPUTY_OK);
    assert_null(m);
    if (!strstr(error.message, word))
        fail_msg("expected '%s' in: %s", word, error.message);
}

static void options_are_checked(void **state)
{
    static const char *const none[] = {NULL}, *const model[] = {"server", "{model}", NULL};
    static const char *const bad_env[] = {"A=b", "nothing", NULL};
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.size--;
    refused(o, "DEPUTY_INIT");
    o = options_of(NULL);
    o.name = "";
    refused(o, "name");
    o = options_of(NULL);
    o.command = none;
    refused(o, "command");
    o.command = model;
    refused(o, "{model}");
    o = options_of(NULL);
    o.env = bad_env;
    refused(o, "entry 2");
    o = options_of(NULL);
    o.health_path = "health";
    refused(o, "health_path");
    o = options_of(NULL);
    o.api_key = "a b";
    refused(o, "token");
    o = options_of(NULL);
    o.prewarm = (deputy_prewarm)7;
    refused(o, "prewarm");
    EVENTUALLY(!owner_is_there());
}

struct words {
    char text[512];
};

static void add_word(void *user, const char *argument)
{
    struct words *w = user;
    size_t len = strlen(w->text);
    snprintf(w->text + len, sizeof(w->text) - len, "%s[%s]", len ? " " : "", argument);
}

static void the_command_is_shown_and_nothing_started(void **state)
{
    static const char *const command[] = {"serve", "{model}", "--port={port}", "--key", "sk-very-secret", "{x}", NULL};
    deputy_managed_options o = options_of(NULL);
    struct words w = {""};
    (void)state;
    o.command = command;
    o.model = "org/tiny";
    o.api_key = "sk-very-secret";
    deputy_managed *m = make(&o);
    assert_int_equal(deputy_managed_command(m, add_word, &w), DEPUTY_OK);
    assert_string_equal(w.text, "[serve] [org/tiny] [--port={port}] [--key] [***] [{x}]");
    assert_true(deputy_managed_same(m, &o));
    o.port = 8001;
    assert_false(deputy_managed_same(m, &o));
    assert_int_equal(status_of(m).starts, 0);
    end_all(m);
    m = make(&o);
    w.text[0] = '\0';
    assert_int_equal(deputy_managed_command(m, add_word, &w), DEPUTY_OK);
    assert_non_null(strstr(w.text, "[--port=8001]"));
    end_all(m);
}

/* ---- starting and stopping
 * -------------------------------------------------------------------------------------------- */

static void starts_gets_ready_and_stops(void **state)
{
    deputy_managed_options o = options_of("--slow", "100", "--print", "model loaded", NULL);
    char output[256];
    (void)state;
    deputy_managed *m = make(&o);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_STOPPED);
    deputy_managed_start(m, NULL);
    REACHES(m, STARTING);
    REACHES(m, READY);
    deputy_managed_status s = DEPUTY_INIT(deputy_managed_status);
    deputy_managed_status_of(m, &s);
    assert_int_equal(s.size, sizeof(s));
    assert_true(s.pid > 0 && s.port > 0 && s.rss_bytes > 0 && s.ready_us >= 90000 && s.uptime_ms >= 90);
    assert_int_equal(s.starts, 1);
    assert_string_equal(s.problem, "");
    assert_true(deputy_managed_output(m, output, sizeof(output)) > 0);
    assert_non_null(strstr(output, "model loaded"));
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    assert_true(is_gone(s.pid));
    s = status_of(m);
    assert_string_equal(s.last_exit, "exit status 0");
    assert_int_equal(s.stops, 1);
    assert_int_equal(s.crashes, 0);
    assert_int_equal(s.pid, 0);
    assert_int_equal(s.port, 0);
    end_all(m);
}

static void a_restart_is_another_process(void **state)
{
    deputy_managed_options o = options_of(NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_managed_restart(m, NULL);
    REACHES(m, READY);
    int64_t first = status_of(m).pid;
    deputy_managed_restart(m, NULL);
    EVENTUALLY(status_of(m).starts == 2 && state_of(m) == DEPUTY_MANAGED_READY);
    assert_true(is_gone(first));
    assert_int_equal(status_of(m).crashes, 0);
    end_all(m);
}

static void stopped_while_it_starts(void **state)
{
    deputy_managed_options o = options_of("--never", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    EVENTUALLY(status_of(m).pid > 0);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    assert_int_equal(status_of(m).starts, 1);
    end_all(m);
}

static void ready_at_start_and_back_after_a_crash(void **state)
{
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.prewarm = DEPUTY_PREWARM_AT_START;
    deputy_managed *m = make(&o);
    REACHES(m, READY);
    kill((pid_t)status_of(m).pid, SIGKILL);
    EVENTUALLY(status_of(m).starts == 2 && state_of(m) == DEPUTY_MANAGED_READY);
    deputy_managed_status s = status_of(m);
    assert_int_equal(s.crashes, 1);
    assert_string_equal(s.last_exit, "signal 9 (SIGKILL)");
    end_all(m);
}

static void stops_when_it_is_idle(void **state)
{
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.idle_ms = 50;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    EVENTUALLY(status_of(m).stops == 1 && state_of(m) == DEPUTY_MANAGED_STOPPED);
    assert_int_equal(status_of(m).starts, 1);
    end_all(m);
}

/* ---- failing to start
 * --------------------------------------------------------------------------------------------------- */

static deputy_managed *failing(deputy_managed_options o, unsigned starts, const char *words)
{
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    deputy_managed_status s = status_of(m);
    assert_int_equal(s.starts, starts);
    if (!strstr(s.problem, words))
        fail_msg("expected '%s' in: %s", words, s.problem);
    EVENTUALLY(left_behind() == 0);
    return m;
}

static void a_program_that_is_not_there(void **state)
{
    static const char *const command[] = {"no-such-model-server", NULL};
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.command = command;
    end_all(failing(o, 1, "could not start 'no-such-model-server': No such file or directory"));
}

static void a_directory_that_is_not_there(void **state)
{
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.cwd = "/no/such/directory";
    end_all(failing(o, 1, "could not start in '/no/such/directory'"));
}

static void ends_at_once(void **state)
{
    deputy_managed_options o = options_of("--exit", "3", NULL);
    char output[4096];
    (void)state;
    deputy_managed *m = failing(o, 3, "ended before it was ready: exit status 3");
    deputy_managed_output(m, output, sizeof(output));
    assert_non_null(strstr(output, "told to end at once"));
    assert_int_equal(status_of(m).crashes, 3);
    deputy_managed_start(m, NULL); /* out of FAILED, with a count of its own */
    EVENTUALLY(status_of(m).starts == 6 && state_of(m) == DEPUTY_MANAGED_FAILED);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    end_all(m);
}

static void crashes_while_it_starts(void **state)
{
    deputy_managed_options o = options_of("--crash-at", "start", NULL);
    (void)state;
    o.restarts = 1;
    end_all(failing(o, 1, "signal 11 (SIGSEGV)"));
}

static void each_pause_is_twice_the_one_before(void **state)
{
    deputy_managed_options o = options_of("--crash-at", "start", NULL);
    uint64_t began = now_ms();
    (void)state;
    o.restarts = 4;
    o.backoff_ms = 100;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    EVENTUALLY(status_of(m).starts == 4); /* after 100, 200 and 400 ms */
    assert_true(now_ms() - began >= 700);
    REACHES(m, FAILED);
    end_all(m);
}

static void never_gets_ready(void **state)
{
    deputy_managed_options o = options_of("--never", NULL);
    (void)state;
    o.restarts = 1;
    o.ready_ms = 300;
    uint64_t begun = now_ms();
    end_all(failing(o, 1, "not ready after 0.3 s: GET /health: status 503"));
    assert_in_range(now_ms() - begun, 300, 3000);
}

static void the_port_is_taken(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    deputy_managed_options o = options_of(NULL);
    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&at, &len);
    o.port = ntohs(at.sin_port);
    deputy_managed *m = failing(o, 0, "is taken by another process");
    close(fd);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    assert_int_equal(status_of(m).port, o.port);
    end_all(m);
}

/* None but those that are open. What to set again. */
static struct rlimit allow_no_descriptors(void)
{
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    setrlimit(RLIMIT_NOFILE, &none);
    return before;
}

/* Whoever is sent to look for a process that has the port looks in vain. */
static void a_port_that_cannot_be_had_is_not_called_taken(void **state)
{
    deputy_managed_options o = options_of(NULL);
    deputy_managed *m;
    (void)state;
    o.port = 1;
    o.restarts = 1;
    m = make(&o);
    struct rlimit before = allow_no_descriptors();
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_non_null(strstr(status_of(m).problem, "port 1 of 127.0.0.1 cannot be had: Too many open files"));
    end_all(m);
}

/* ---- ending badly
 * ----------------------------------------------------------------------------------------------------- */

static void ignores_sigterm(void **state)
{
    deputy_managed_options o = options_of("--ignore-term", NULL);
    (void)state;
    o.stop_grace_ms = 200;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    uint64_t begun = now_ms();
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    assert_in_range(now_ms() - begun, 190, 3000);
    assert_string_equal(status_of(m).last_exit, "signal 9 (SIGKILL)");
    assert_int_equal(noted("term", NULL, 0), 1);
    end_all(m);
}

static void crashes_while_it_stops(void **state)
{
    deputy_managed_options o = options_of("--crash-at", "term", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    assert_string_equal(status_of(m).last_exit, "signal 11 (SIGSEGV)");
    assert_int_equal(status_of(m).crashes, 0);
    end_all(m);
}

static void ready_and_then_deaf(void **state)
{
    deputy_managed_options o = options_of("--hang-at", "ready", NULL);
    (void)state;
    o.restarts = 2;
    o.health_ms = 50;
    deputy_managed *m = failing(o, 2, "no longer answers GET /health");
    assert_int_equal(status_of(m).crashes, 2);
    end_all(m);
}

/* Who cannot look has seen nothing: the server is well, and may serve runs. */
static void a_host_without_descriptors_does_not_take_it_for_deaf(void **state)
{
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.health_ms = 20;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    struct rlimit before = allow_no_descriptors();
    nap_for(500);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_READY);
    assert_int_equal(status_of(m).starts, 1);
    assert_int_equal(status_of(m).crashes, 0);
    kill((pid_t)status_of(m).pid, SIGSTOP);
    EVENTUALLY(status_of(m).crashes == 1); /* it is looked at again */
    end_all(m);
}

static void output_is_kept_to_the_last_64_kib(void **state)
{
    static char output[RING_BYTES + 100];
    deputy_managed_options o = options_of("--flood", "10000000", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    size_t len = deputy_managed_output(m, output, sizeof(output));
    assert_in_range(len, RING_BYTES - 1100, RING_BYTES);
    assert_string_equal(output + len - strlen("the last line of the flood\n"), "the last line of the flood\n");
    assert_int_equal(deputy_managed_output(m, output, 10), 9);
    assert_string_equal(output, "he flood\n");
    end_all(m);
}

static void keys_are_not_shown(void **state)
{
    static const char *const env[] = {"MY_API_KEY=abcdef-secret-1", "PLAIN=visible-value", NULL};
    deputy_managed_options o =
        options_of("--print", "abcdef-secret-1 and sk-key-of-its-own, visible-value {model}", NULL);
    char output[512];
    (void)state;
    o.env = env;
    o.model = "the-model";
    o.api_key = "sk-key-of-its-own";
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    deputy_managed_output(m, output, sizeof(output));
    assert_string_equal(output, "*** and ***, visible-value the-model\n");
    end_all(m);
}

/* ---- families
 * ----------------------------------------------------------------------------------------------------------- */

static deputy_managed *family_of(deputy_managed_options *o)
{
    o->stop_grace_ms = 200;
    deputy_managed *m = make(o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    EVENTUALLY(noted("grandchild", NULL, 0) == 1 && noted("child", NULL, 0) == 1);
    assert_int_equal(left_behind(), 3);
    return m;
}

static void the_whole_family_is_stopped(void **state)
{
    deputy_managed_options o = options_of("--family", NULL);
    (void)state;
    deputy_managed *m = family_of(&o);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    assert_int_equal(left_behind(), 0); /* it is not stopped before */
    end_all(m);
}

static void the_whole_family_ends_with_its_head(void **state)
{
    deputy_managed_options o = options_of("--family", NULL);
    (void)state;
    deputy_managed *m = family_of(&o);
    deputy_managed_stop(m, NULL); /* so that it is not started again */
    REACHES(m, STOPPED);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    EVENTUALLY(noted("grandchild", NULL, 0) == 2);
    kill((pid_t)status_of(m).pid, SIGKILL);
    EVENTUALLY(status_of(m).starts == 3 && state_of(m) == DEPUTY_MANAGED_READY);
    EVENTUALLY(noted("grandchild", NULL, 0) == 3 && noted("child", NULL, 0) == 3);
    assert_int_equal(left_behind(), 3); /* those of the third start */
    end_all(m);
}

static long supervisor_of(long server)
{
    struct family all;
    long parent = 0;
    assert_true(family_read(&all));
    for (size_t i = 0; i < all.n; i++)
        if (all.list[i].pid == server)
            parent = all.list[i].parent;
    family_free(&all);
    return parent;
}

static void the_supervisor_is_killed(void **state)
{
    deputy_managed_options o = options_of("--family", NULL);
    (void)state;
    o.restarts = 1;
    deputy_managed *m = family_of(&o);
    kill((pid_t)supervisor_of((long)status_of(m).pid), SIGKILL);
    REACHES(m, FAILED);
    assert_non_null(strstr(status_of(m).problem, "its supervisor was ended by signal 9"));
    EVENTUALLY(left_behind() == 0);
    end_all(m);
}

static void the_supervisor_hangs(void **state)
{
    deputy_managed_options o = options_of("--family", NULL);
    (void)state;
    deputy_managed *m = family_of(&o);
    pid_t pid = (pid_t)supervisor_of((long)status_of(m).pid);
    kill(pid, SIGSTOP);
    deputy_managed_stop(m, NULL);
    EVENTUALLY((kill(pid, SIGSTOP), state_of(m) == DEPUTY_MANAGED_STOPPED)); /* after the grace and five seconds more */
    EVENTUALLY(left_behind() == 0); /* dead already, but it is for the first process of the machine to reap them */
    assert_int_equal(status_of(m).crashes, 0);
    end_all(m);
}

static void the_last_reference_ends_it(void **state)
{
    deputy_managed_options o = options_of("--family", NULL);
    (void)state;
    deputy_managed *m = family_of(&o);
    deputy_managed_unref(deputy_managed_ref(m));
    assert_int_equal(state_of(m), DEPUTY_MANAGED_READY);
    end_all(m);
}

/* Another process of this very program, which starts one and then does what it is told. */
static int be_host(const char *how, const char *log)
{
    find_programs();
    snprintf(log_file, sizeof(log_file), "%s", log);
    deputy_managed_options o = options_of("--family", NULL);
    o.stop_grace_ms = 200;
    deputy_managed *m;
    if (deputy_managed_new(&o, &m, NULL) != DEPUTY_OK)
        return 1;
    deputy_managed_start(m, NULL);
    while (noted("grandchild", NULL, 0) < 1 || noted("child", NULL, 0) < 1)
        nap_for(5);
    if (strcmp(how, "exit") == 0)
        return 0;
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "fork") == 0 && fork() == 0) { /* holds the socket to the supervisor open */
        FILE *file = fopen(log_file, "a");
        if (!file || fprintf(file, "forked %ld\n", (long)getpid()) < 0 || fclose(file) != 0)
            _exit(1);
        nap_for(4000);
        _exit(0);
    }
    for (;;)
        pause();
}

static void the_host_ends(const char *how, int number)
{
    char self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(len > 0);
    self[len] = '\0';
    pid_t host = fork();
    if (host == 0) {
        execl(self, self, "--host", how, log_file, (char *)NULL);
        _exit(127);
    }
    EVENTUALLY(noted("grandchild", NULL, 0) == 1 && noted("child", NULL, 0) == 1);
    EVENTUALLY(strcmp(how, "fork") != 0 || noted("forked", NULL, 0) == 1);
    if (number)
        kill(host, number);
    waitpid(host, NULL, 0);
    uint64_t begun = now_ms();
    EVENTUALLY(left_behind() == 0);
    assert_in_range(now_ms() - begun, 0, 3000);
}

static void the_host_exits(void **state)
{
    (void)state;
    the_host_ends("exit", 0);
}

static void the_host_aborts(void **state)
{
    (void)state;
    the_host_ends("abort", 0);
}

static void the_host_is_killed(void **state)
{
    (void)state;
    the_host_ends("wait", SIGKILL);
}

static void the_host_is_killed_and_a_fork_of_it_lives(void **state)
{
    (void)state;
    the_host_ends("fork", SIGKILL);
}

/* ---- many times
 * --------------------------------------------------------------------------------------------------------- */

static size_t zombies(void)
{
    size_t n = 0;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        n++;
    return n;
}

/* CYCLES=500 for the whole of it. */
static void many_starts_and_stops_with_crashes(void **state)
{
    const char *env = getenv("CYCLES");
    long cycles = env ? strtol(env, NULL, 10) : 50;
    deputy_managed_options o = options_of("--family", NULL);
    unsigned long seed = 1;
    (void)state;
    o.stop_grace_ms = 100;
    o.backoff_ms = 1;
    o.restarts = UINT32_MAX;
    deputy_managed *m = make(&o);
    size_t before = 0;
    for (long i = 0; i < cycles; i++) {
        deputy_managed_start(m, NULL);
        EVENTUALLY(status_of(m).pid > 0);
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned long dice = seed >> 33;
        if (dice % 4 != 0)
            REACHES(m, READY);
        nap_for((long)(dice % 7));
        deputy_managed_status s = status_of(m);
        if (dice % 3 == 0 && s.pid > 0)
            kill((pid_t)s.pid, dice % 2 ? SIGKILL : SIGSEGV);
        if (dice % 11 == 0 && s.pid > 0) {
            long by = supervisor_of((long)s.pid);
            if (by > 1)
                kill((pid_t)by, SIGKILL);
        }
        deputy_managed_stop(m, NULL);
        EVENTUALLY(state_of(m) == DEPUTY_MANAGED_STOPPED || state_of(m) == DEPUTY_MANAGED_FAILED);
        if (i == 0) {
            nap_for(100); /* until what was closed is closed */
            before = open_descriptors();
        }
    }
    EVENTUALLY(left_behind() == 0);
    EVENTUALLY(open_descriptors() <= before);
    assert_int_equal(zombies(), 0);
    assert_true(status_of(m).starts >= (uint64_t)cycles);
    end_all(m);
    assert_int_equal(zombies(), 0);
}

/* From several threads at once, so that the sanitizers have something to see. */
static void *order_about(void *user)
{
    deputy_managed *m = user;
    char output[128];
    for (int i = 0; i < 30; i++) {
        deputy_managed_start(m, NULL);
        deputy_managed_status s = DEPUTY_INIT(deputy_managed_status);
        deputy_managed_status_of(m, &s);
        deputy_managed_output(m, output, sizeof(output));
        if (i % 3 == 0)
            deputy_managed_restart(m, NULL);
        nap_for(1);
        if (i % 5 == 0)
            deputy_managed_stop(m, NULL);
        deputy_managed_unref(deputy_managed_ref(m));
    }
    return NULL;
}

static void many_threads_order_it_about(void **state)
{
    deputy_managed_options o = options_of(NULL);
    pthread_t threads[4];
    (void)state;
    o.stop_grace_ms = 200;
    deputy_managed *m = make(&o);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, order_about, m);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    end_all(m);
}

/* ---- what it says
 * --------------------------------------------------------------------------------------------------------- */

struct told {
    pthread_mutex_t lock;
    char text[4096];
};

static void on_log(void *user, deputy_log_level level, const char *text)
{
    struct told *t = user;
    (void)level;
    pthread_mutex_lock(&t->lock);
    size_t len = strlen(t->text);
    snprintf(t->text + len, sizeof(t->text) - len, "%s\n", text);
    pthread_mutex_unlock(&t->lock);
}

static void it_logs_what_happens(void **state)
{
    static struct told told = {.lock = PTHREAD_MUTEX_INITIALIZER};
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.on_log = on_log;
    o.log_user = &told;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    deputy_managed_unref(m); /* nothing is logged from here on */
    assert_non_null(strstr(told.text, "tiny: started as process"));
    assert_non_null(strstr(told.text, "tiny: ready after"));
    assert_non_null(strstr(told.text, "tiny: ended: exit status 0"));
    assert_null(strstr(told.text, "mistake"));
    EVENTUALLY(!owner_is_there());
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--host") == 0)
        return be_host(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        TEST(every_pair_of_state_and_event),
        TEST(states_have_names),
        TEST(the_last_bytes_are_kept),
        TEST(options_are_checked),
        TEST(the_command_is_shown_and_nothing_started),
        TEST(starts_gets_ready_and_stops),
        TEST(a_restart_is_another_process),
        TEST(stopped_while_it_starts),
        TEST(ready_at_start_and_back_after_a_crash),
        TEST(stops_when_it_is_idle),
        TEST(a_program_that_is_not_there),
        TEST(a_directory_that_is_not_there),
        TEST(ends_at_once),
        TEST(crashes_while_it_starts),
        TEST(each_pause_is_twice_the_one_before),
        TEST(never_gets_ready),
        TEST(the_port_is_taken),
        TEST(a_port_that_cannot_be_had_is_not_called_taken),
        TEST(ignores_sigterm),
        TEST(crashes_while_it_stops),
        TEST(ready_and_then_deaf),
        TEST(a_host_without_descriptors_does_not_take_it_for_deaf),
        TEST(output_is_kept_to_the_last_64_kib),
        TEST(keys_are_not_shown),
        TEST(the_whole_family_is_stopped),
        TEST(the_whole_family_ends_with_its_head),
        TEST(the_supervisor_is_killed),
        TEST(the_supervisor_hangs),
        TEST(the_last_reference_ends_it),
        TEST(the_host_exits),
        TEST(the_host_aborts),
        TEST(the_host_is_killed),
        TEST(the_host_is_killed_and_a_fork_of_it_lives),
        TEST(many_starts_and_stops_with_crashes),
        TEST(many_threads_order_it_about),
        TEST(it_logs_what_happens),
    };
    if (getenv("ONLY_TEST"))
        cmocka_set_test_filter(getenv("ONLY_TEST"));
    return cmocka_run_group_tests_name("managed", tests, NULL, NULL);
}
