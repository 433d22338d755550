/* Managed servers among strangers, in bad company and in bad luck: what must not be killed, told or handed on. */
#include "managed_fixture.h"

#include "managed/family.h"
#include "managed/lease.h"
#include "managed/listener.h"
#include "managed/ring.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- strangers --------------------------------------------------------------------------------------------------- */

/* A session of its own, ended by end_child. */
static pid_t stranger(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        for (;;)
            pause();
    }
    EVENTUALLY(getsid(pid) == pid);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static bool runs(pid_t pid)
{
    return waitpid(pid, NULL, WNOHANG) == 0;
}

/* The number of a server that ended may be the number of somebody else's session. */
static void a_session_of_the_same_number_is_left_alone(void **state)
{
    pid_t pid = stranger();
    uint64_t born = family_born(pid);
    struct family_head head = {pid, born - 1};
    (void)state;
    assert_true(born > 1);
    assert_int_equal(family_kill(&head, "NO_SUCH_MARK=1"), 0);
    assert_int_equal(head.pid, 0);
    assert_true(runs(pid));
    head = (struct family_head){pid, 0}; /* nobody knows when it was started */
    assert_int_equal(family_kill(&head, "NO_SUCH_MARK=1"), 0);
    assert_true(runs(pid));
    head = (struct family_head){pid, born};
    assert_int_equal(family_kill(&head, "NO_SUCH_MARK=1"), 1);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(family_kill(&head, "NO_SUCH_MARK=1"), 0);
    assert_int_equal(head.pid, 0); /* nobody is in it: whoever comes next is a stranger */
}

static void a_signal_reaches_the_process_that_was_looked_at(void **state)
{
    pid_t pid = stranger();
    struct family_process p = {.pid = pid, .born = family_born(pid) + 1};
    (void)state;
    assert_false(family_signal(&p, SIGKILL));
    assert_true(runs(pid));
    end_child(pid);
    assert_false(family_signal(&p, SIGKILL));
}

/* Answers 200 to everything, on a port that is not its to have. */
struct thief {
    int fd;
    _Atomic size_t bytes;
    _Atomic bool over;
    pthread_t thread;
};

static void *steal(void *user)
{
    struct thief *t = user;
    char bytes[4096];
    while (!t->over) {
        struct pollfd ready = {.fd = t->fd, .events = POLLIN};
        if (poll(&ready, 1, 10) <= 0)
            continue;
        int fd = accept4(t->fd, NULL, NULL, SOCK_CLOEXEC);
        ssize_t n = fd >= 0 ? recv(fd, bytes, sizeof(bytes), 0) : 0;
        t->bytes += n > 0 ? (size_t)n : 0;
        (void)!send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 41, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static bool begin_to_steal(struct thief *t, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    t->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return bind(t->fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(t->fd, 16) == 0 &&
           pthread_create(&t->thread, NULL, steal, t) == 0;
}

static void end_stealing(struct thief *t)
{
    t->over = true;
    pthread_join(t->thread, NULL);
    close(t->fd);
}

static void whoever_takes_the_picked_port_gets_no_byte(void **state)
{
    static struct thief thief;
    deputy_managed_options o = options_of("--late", "60000", NULL);
    (void)state;
    o.restarts = 1;
    o.api_key = "sk-for-the-server-alone";
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    EVENTUALLY(noted("start", NULL, 0) == 1);
    assert_true(begin_to_steal(&thief, status_of(m).port));
    REACHES(m, FAILED);
    assert_non_null(strstr(status_of(m).problem, "another process listens on its port"));
    assert_int_equal(thief.bytes, 0);
    end_stealing(&thief);
    end_all(m);
}

static void unless_anybody_may_listen(void **state)
{
    static struct thief thief;
    deputy_managed_options o = options_of("--late", "60000", NULL);
    (void)state;
    o.any_listener = true;
    o.stop_grace_ms = 100;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    EVENTUALLY(noted("start", NULL, 0) == 1);
    assert_true(begin_to_steal(&thief, status_of(m).port));
    REACHES(m, READY);
    end_stealing(&thief);
    end_all(m);
}

static void listeners_are_told_apart(void **state)
{
    static struct thief mine;
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    (void)state;
    assert_true(begin_to_steal(&mine, 0));
    getsockname(mine.fd, (struct sockaddr *)&at, &len);
    uint16_t port = ntohs(at.sin_port);
    assert_int_equal(listener_at(port, getppid()), LISTENER_OURS);
    assert_int_equal(listener_at(port, getpid()), LISTENER_STRANGER); /* a descendant, that is */
    end_stealing(&mine);
    assert_int_equal(listener_at(port, getppid()), LISTENER_NONE);
}

/* ---- what is handed on ------------------------------------------------------------------------------------------- */

static void no_shell_runs_what_is_no_program(void **state)
{
    char path[80], trace[96], text[128];
    const char *command[] = {path, NULL};
    deputy_managed_options o = options_of(NULL);
    (void)state;
    snprintf(path, sizeof(path), "%s.text", log_file);
    snprintf(trace, sizeof(trace), "%s.trace", log_file);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    int n = snprintf(text, sizeof(text), "echo ran > %s\n", trace);
    assert_int_equal(write(fd, text, (size_t)n), n);
    close(fd);
    o.command = command;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    assert_non_null(strstr(status_of(m).problem, "Exec format error"));
    assert_int_equal(status_of(m).starts, 1);
    assert_int_not_equal(access(trace, F_OK), 0);
    unlink(path);
    end_all(m);
}

static void failed_with(const char *program, const char *words)
{
    const char *command[] = {program, NULL};
    deputy_managed_options o = options_of(NULL);
    o.command = command;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    if (!strstr(status_of(m).problem, words))
        fail_msg("expected '%s' in: %s", words, status_of(m).problem);
    assert_int_equal(status_of(m).starts, 1);
    end_all(m);
}

static void what_cannot_be_run_is_said(void **state)
{
    (void)state;
    failed_with("/tmp", "Permission denied");
    failed_with("/etc/passwd", "Permission denied");
    failed_with("/etc/passwd/server", "Not a directory");
    failed_with("no-such-program", "No such file");
}

static void the_hosts_own_environment_stays_with_it(void **state)
{
    static const char *const command[] = {"env", NULL}, *const env[] = {"DEPUTY_GIVEN=on-purpose", NULL};
    char output[8192];
    deputy_managed_options o = options_of(NULL);
    (void)state;
    setenv("DEPUTY_CENTRAL_TOKEN", "of-the-central", 1);
    setenv("NOTIFY_SOCKET", "/run/notify", 1);
    setenv("LISTEN_FDS", "3", 1);
    setenv("A_PLAIN_ONE", "passed-on", 1);
    o.command = command;
    o.env = env;
    o.restarts = 1;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    deputy_managed_output(m, output, sizeof(output));
    unsetenv("DEPUTY_CENTRAL_TOKEN");
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_FDS");
    assert_null(strstr(output, "DEPUTY_CENTRAL_TOKEN"));
    assert_null(strstr(output, "NOTIFY_SOCKET"));
    assert_null(strstr(output, "LISTEN_FDS"));
    assert_non_null(strstr(output, "A_PLAIN_ONE=passed-on"));
    assert_non_null(strstr(output, "DEPUTY_GIVEN=on-purpose"));
    end_all(m);
}

/* Descriptors that a host left inheritable, and what the supervisor holds itself. */
static void no_descriptor_is_handed_on(void **state)
{
    static const char *const command[] = {"ls", "-l", "/proc/self/fd", NULL};
    char output[4096];
    deputy_managed_options o = options_of(NULL);
    int careless = open("/etc/passwd", O_RDONLY);
    int high = fcntl(careless, F_DUPFD, 900);
    (void)state;
    o.command = command;
    o.restarts = 1;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, FAILED);
    deputy_managed_output(m, output, sizeof(output));
    close(careless);
    close(high);
    assert_non_null(strstr(output, " 0 -> /dev/null"));
    assert_null(strstr(output, "passwd"));
    assert_null(strstr(output, "socket:"));
    assert_null(strstr(output, "anon_inode"));
    end_all(m);
}

static void the_supervisor_keeps_no_environment(void **state)
{
    char path[64], bytes[4096];
    static const char *const env[] = {"SERVER_KEY=sk-of-the-server", NULL};
    deputy_managed_options o = options_of(NULL);
    (void)state;
    o.env = env;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    snprintf(path, sizeof(path), "/proc/%ld/environ", (long)m->supervisor);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, bytes, sizeof(bytes));
    close(fd);
    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(bytes[i], 0);
    end_all(m);
}

/* ---- secrets in the output --------------------------------------------------------------------------------------- */

static void no_half_of_a_secret_is_shown(void **state)
{
    static const char key[] = "sk-0123456789-abcdefghijklmnopqrstuvwxyz";
    static char text[RING_BYTES + 2000], output[RING_BYTES + 1];
    deputy_managed_options o;
    (void)state;
    /* The ring begins in the middle of the key, and there is no end of a line but the last. */
    memset(text, 'x', sizeof(text) - 1);
    memcpy(text + sizeof(text) - 1 - RING_BYTES + 1 - 20, key, sizeof(key) - 1);
    o = options_of("--print", text, NULL);
    o.api_key = key;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    size_t len = deputy_managed_output(m, output, sizeof(output));
    assert_true(len > RING_BYTES / 2); /* a line without end is worth showing all the same */
    assert_null(strstr(output, "klmnopqrstuvwxyz"));
    assert_null(strstr(output, "uvwxyz"));
    end_all(m);
}

static void a_secret_within_a_secret_is_hidden_whole(void **state)
{
    static const char *const env[] = {"A_KEY=abcdef", "B_KEY=abcdef-and-more", "C_KEY=more-and-more", NULL};
    deputy_managed_options o = options_of("--print", "say abcdef-and-more, abcdef, and more-and-mo", NULL);
    char output[256];
    (void)state;
    o.env = env;
    deputy_managed *m = make(&o);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    deputy_managed_output(m, output, sizeof(output));
    assert_non_null(strstr(output, "say ***, ***, and "));
    end_all(m);
}

/* ---- starting again ---------------------------------------------------------------------------------------------- */

static void settle(struct lease *lease)
{
    (void)lease;
}

static void wait_for(struct lease *lease, deputy_managed *m)
{
    *lease = (struct lease){.settled = settle};
    lease_take(m, lease, NULL);
}

#define SETTLES(lease, how) EVENTUALLY(lease_state(lease) == LEASE_##how)

/* Takes a place, which is to end so. */
#define GETS(m, lease, how)                                                                                            \
    do {                                                                                                               \
        wait_for(lease, m);                                                                                            \
        SETTLES(lease, how);                                                                                           \
    } while (0)

/* A script that counts its starts: those in `bad` ("0|1|") end at once. */
static deputy_managed_options counting(const char *bad)
{
    static char script[1200];
    static const char *command[] = {"sh", "-c", script, NULL};
    deputy_managed_options o = options_of(NULL);
    snprintf(script, sizeof(script),
             "n=$(cat %s.n 2>/dev/null || echo 0); echo $((n + 1)) > %s.n; case $n in %s) exit 1;; esac; "
             "exec %s --port {port} --log %s",
             log_file, log_file, bad, model_server, log_file);
    o.command = command;
    return o;
}

static void forget_count(void)
{
    char path[80];
    snprintf(path, sizeof(path), "%s.n", log_file);
    unlink(path);
}

/* A caller an hour later does not know that there is something to be mended by hand, and maybe there is nothing left.
 */
static void after_a_while_a_caller_gets_another_try(void **state)
{
    deputy_managed_options o = counting("0|1|2|3");
    struct lease lease, early;
    deputy_error error = {0};
    (void)state;
    o.retry_ms = 400;
    o.restarts = 2;
    deputy_managed *m = make(&o);
    GETS(m, &lease, DENIED);
    lease_return(&lease, LEASE_UNUSED);
    assert_int_equal(status_of(m).starts, 2);
    early = (struct lease){.settled = settle};
    assert_int_equal(lease_take(m, &early, &error), DEPUTY_EFAILED);
    lease_return(&early, LEASE_UNUSED);
    nap_for(420);
    GETS(m, &lease, DENIED);
    lease_return(&lease, LEASE_UNUSED);
    assert_int_equal(status_of(m).starts, 3); /* one try, no more */
    REACHES(m, FAILED);
    nap_for(420);
    GETS(m, &lease, DENIED);
    lease_return(&lease, LEASE_UNUSED);
    nap_for(420);
    GETS(m, &lease, HELD);
    lease_return(&lease, LEASE_WELL);
    assert_int_equal(status_of(m).starts, 5);
    forget_count();
    end_all(m);
}

static void a_good_run_ends_the_count_of_failures(void **state)
{
    deputy_managed_options o = counting("0|1|3|4");
    struct lease lease;
    (void)state;
    o.idle_ms = 50;
    deputy_managed *m = make(&o);
    GETS(m, &lease, HELD);
    lease_return(&lease, LEASE_WELL);
    REACHES(m, STOPPED);
    GETS(m, &lease, HELD);
    lease_return(&lease, LEASE_WELL);
    assert_int_equal(status_of(m).starts, 6);
    forget_count();
    end_all(m);
}

/* Readers that do not read may hold on to what is left of a reply for long. */
static void runs_at_a_dead_server_take_no_place_at_the_next(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct lease old, next;
    (void)state;
    o.max_concurrent = 1;
    deputy_managed *m = make(&o);
    GETS(m, &old, HELD);
    kill((pid_t)status_of(m).pid, SIGKILL);
    EVENTUALLY(state_of(m) != DEPUTY_MANAGED_READY);
    GETS(m, &next, HELD);
    assert_int_equal(status_of(m).active, 1);
    lease_return(&old, LEASE_ILL);
    assert_int_equal(status_of(m).active, 1);
    lease_return(&next, LEASE_WELL);
    assert_int_equal(status_of(m).active, 0);
    end_all(m);
}

/* A reload: the new one has the old one's port, or its GPU. */
static void the_next_one_waits_for_the_one_it_replaces(void **state)
{
    deputy_managed_options o = options_of("--ignore-term", NULL);
    (void)state;
    o.stop_grace_ms = 600;
    o.restarts = 1;
    deputy_managed *old = make(&o);
    deputy_managed_start(old, NULL);
    REACHES(old, READY);
    o.port = status_of(old).port;
    o.idle_ms = 12345;
    deputy_managed *new = make(&o);
    deputy_managed_start(new, NULL);
    nap_for(100);
    assert_int_equal(status_of(new).starts, 0);
    assert_int_equal(state_of(new), DEPUTY_MANAGED_STARTING);
    deputy_managed_unref(old);
    REACHES(new, READY);
    assert_int_equal(status_of(new).crashes, 0);
    assert_int_equal(left_behind(), 1);
    end_all(new);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_session_of_the_same_number_is_left_alone),
        TEST(a_signal_reaches_the_process_that_was_looked_at),
        TEST(whoever_takes_the_picked_port_gets_no_byte),
        TEST(unless_anybody_may_listen),
        TEST(listeners_are_told_apart),
        TEST(no_shell_runs_what_is_no_program),
        TEST(what_cannot_be_run_is_said),
        TEST(the_hosts_own_environment_stays_with_it),
        TEST(no_descriptor_is_handed_on),
        TEST(the_supervisor_keeps_no_environment),
        TEST(no_half_of_a_secret_is_shown),
        TEST(a_secret_within_a_secret_is_hidden_whole),
        TEST(after_a_while_a_caller_gets_another_try),
        TEST(a_good_run_ends_the_count_of_failures),
        TEST(runs_at_a_dead_server_take_no_place_at_the_next),
        TEST(the_next_one_waits_for_the_one_it_replaces),
    };
    if (getenv("ONLY_TEST"))
        cmocka_set_test_filter(getenv("ONLY_TEST"));
    return cmocka_run_group_tests_name("managed_hostile", tests, NULL, NULL);
}
