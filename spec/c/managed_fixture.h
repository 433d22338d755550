/* managed_fixture.h - model servers that misbehave on demand, and what they leave behind. For one test file. */
#ifndef MANAGED_FIXTURE_H
#define MANAGED_FIXTURE_H

#include "deputy/managed.h"
#include "managed/owner.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { ARGUMENTS_MAX = 24, PATIENCE_MS = 20000 };

static char supervisor[512], model_server[512], log_file[64];
static const char *arguments[ARGUMENTS_MAX];

static inline uint64_t now_ms(void)
{
    return loop_now_us() / 1000;
}

static inline void nap_for(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Waits until it is so; the test fails when that takes too long. */
#define EVENTUALLY(condition)                                                                                          \
    do {                                                                                                               \
        uint64_t begun_ = now_ms();                                                                                    \
        while (!(condition) && now_ms() - begun_ < PATIENCE_MS)                                                        \
            nap_for(2);                                                                                                \
        assert_true(condition);                                                                                        \
    } while (0)

static inline void find_programs(void)
{
    const char *build = getenv("DEPUTY_BUILD");
    snprintf(supervisor, sizeof(supervisor), "%s/deputy-supervisor", build ? build : "build");
    snprintf(model_server, sizeof(model_server), "%s/spec/support/model_server", build ? build : "build");
}

/* ---- what the servers have noted --------------------------------------------------------------------------------- */

static inline void new_log(void)
{
    snprintf(log_file, sizeof(log_file), "/tmp/deputy-managed-XXXXXX");
    int fd = mkstemp(log_file);
    assert_true(fd >= 0);
    close(fd);
}

/* How many lines begin with the word; their numbers go into list, as far as it reaches. */
static inline size_t noted(const char *word, long *list, size_t size)
{
    char line[128], what[64];
    long number;
    size_t n = 0;
    FILE *file = fopen(log_file, "r");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "%63s %ld", what, &number) == 2 && strcmp(what, word) == 0) {
            if (n < size)
                list[n] = number;
            n++;
        }
    if (file)
        fclose(file);
    return n;
}

static inline bool is_gone(long pid)
{
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* Every process that ever noted something but may still be there. */
static inline size_t left_behind(void)
{
    static const char *const words[] = {"start", "child", "grandchild"};
    long pids[4096];
    size_t left = 0;
    for (size_t w = 0; w < 3; w++) {
        size_t n = noted(words[w], pids, 4096);
        for (size_t i = 0; i < n && i < 4096; i++)
            left += !is_gone(pids[i]);
    }
    return left;
}

/* ---- making one -------------------------------------------------------------------------------------------------- */

static inline deputy_managed_options options_of(const char *first, ...)
{
    deputy_managed_options o = DEPUTY_INIT(deputy_managed_options);
    va_list more;
    size_t n = 0;
    const char *fixed[] = {model_server, "--port", "{port}", "--log", log_file};
    for (size_t i = 0; i < 5; i++)
        arguments[n++] = fixed[i];
    va_start(more, first);
    for (const char *a = first; a && n < ARGUMENTS_MAX - 1; a = va_arg(more, const char *))
        arguments[n++] = a;
    va_end(more);
    arguments[n] = NULL;
    o.name = "tiny";
    o.command = arguments;
    o.supervisor = supervisor;
    o.ready_ms = 10000;
    o.stop_grace_ms = 3000;
    o.backoff_ms = 10;
    return o;
}

static inline deputy_managed *make(const deputy_managed_options *o)
{
    deputy_managed *m;
    deputy_error error = {0};
    if (deputy_managed_new(o, &m, &error) != DEPUTY_OK)
        fail_msg("%s", error.message);
    return m;
}

/* Without the memory, which takes a look at all of /proc. */
static inline deputy_managed_status status_of(deputy_managed *m)
{
    deputy_managed_status s;
    managed_words(m, &s);
    return s;
}

static inline deputy_managed_state state_of(deputy_managed *m)
{
    return status_of(m).state;
}

#define REACHES(m, name) EVENTUALLY(state_of(m) == DEPUTY_MANAGED_##name)

/* The last reference; then there is no thread, no process, no descriptor. */
static inline void end_all(deputy_managed *m)
{
    deputy_managed_unref(m);
    EVENTUALLY(!owner_is_there());
    EVENTUALLY(left_behind() == 0);
}

static inline size_t open_descriptors(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* ---- each test has a log of its own ------------------------------------------------------------------------------ */

static inline int begin_test(void **state)
{
    (void)state;
    find_programs();
    new_log();
    return 0;
}

static inline int end_test(void **state)
{
    (void)state;
    unlink(log_file);
    return 0;
}

#endif
