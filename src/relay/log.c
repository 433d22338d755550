#include "relay/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WAITING = 1 << 20, FLUSH_AT = 32 << 10 };

static const char *const levels[] = {"error", "warn", "info", "debug"};

void log_init(struct log *log, bool json, deputy_log_level level)
{
    *log = (struct log){.lines = DRAFT(MAX_WAITING), .json = json, .level = level};
}

static void add_plain(struct draft *to, const char *value)
{
    bool bare = *value != '\0';
    for (const char *p = value; *p && bare; p++)
        bare = (unsigned char)*p > ' ' && *p != '"' && *p != '=' && *p != '\\' && (unsigned char)*p < 0x7f;
    if (bare)
        draft_word(to, value);
    else
        draft_json(to, value);
}

static void add_name(struct log *log, const char *name)
{
    if (!log->json) {
        draft_print(&log->lines, "%s%s=", log->lines.len > log->begun ? " " : "", name);
        return;
    }
    draft_word(&log->lines, log->lines.len > log->begun + 1 ? "," : "");
    draft_json(&log->lines, name);
    draft_word(&log->lines, ":");
}

void log_text(struct log *log, const char *name, const char *value)
{
    if (!value)
        return;
    add_name(log, name);
    if (log->json)
        draft_json(&log->lines, value);
    else
        add_plain(&log->lines, value);
}

void log_number(struct log *log, const char *name, int64_t value)
{
    add_name(log, name);
    draft_print(&log->lines, "%lld", (long long)value);
}

void log_bool(struct log *log, const char *name, bool value)
{
    add_name(log, name);
    draft_word(&log->lines, value ? "true" : "false");
}

static void add_leg(struct log *log, const deputy_trace *t, bool first)
{
    struct draft *to = &log->lines;
    unsigned long long took = t->end_us > t->start_us ? t->end_us - t->start_us : 0;
    if (!log->json) {
        draft_print(to, "%s%s:%d:%d:%s:%llu+%llu", first ? "" : ",", deputy_leg_name(t->leg), t->attempt, t->status,
                    t->kind && t->kind[0] ? t->kind : "-", (unsigned long long)t->start_us, took);
        return;
    }
    draft_print(
        to, "%s{\"leg\":\"%s\",\"attempt\":%d,\"status\":%d,\"start_us\":%llu,\"us\":%llu,\"kind\":", first ? "" : ",",
        deputy_leg_name(t->leg), t->attempt, t->status, (unsigned long long)t->start_us, took);
    draft_json(to, t->kind);
    if (t->provider) {
        draft_word(to, ",\"provider\":");
        draft_json(to, t->provider);
    }
    if (t->leg == DEPUTY_LEG_PROBE)
        draft_print(to, ",\"verdict\":\"%s\"", deputy_verdict_name(t->verdict));
    draft_word(to, "}");
}

void log_legs(struct log *log, const deputy_trace *trace, size_t n)
{
    add_name(log, "legs");
    draft_word(&log->lines, log->json ? "[" : n > 0 ? "" : "-");
    for (size_t i = 0; i < n; i++)
        add_leg(log, &trace[i], i == 0);
    draft_word(&log->lines, log->json ? "]" : "");
}

static void add_time(struct log *log)
{
    struct timespec now;
    struct tm tm;
    char seconds[32], text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof(text), "%s.%03dZ", seconds, (int)(now.tv_nsec / 1000000));
    log_text(log, "time", text);
}

bool log_begin(struct log *log, deputy_log_level level, const char *message)
{
    if (level > log->level)
        return false;
    log->begun = log->lines.len;
    if (log->json)
        draft_word(&log->lines, "{");
    add_time(log);
    log_text(log, "level", levels[level]);
    log_text(log, "msg", message);
    return true;
}

void log_end(struct log *log)
{
    draft_word(&log->lines, log->json ? "}\n" : "\n");
    if (log->lines.failed) { /* half a line is worse than none */
        log->lines.len = log->begun;
        log->lines.failed = false;
        log->lost++;
    }
    if (log->lines.len > FLUSH_AT)
        log_flush(log);
}

void log_say(struct log *log, deputy_log_level level, const char *message, const char *name, const char *value)
{
    if (!log_begin(log, level, message))
        return;
    if (name)
        log_text(log, name, value);
    log_end(log);
    log_flush(log);
}

/* As many whole lines as fit into size; a longer one in parts. */
static size_t whole_lines(const char *text, size_t len, size_t size)
{
    const char *end = len > size ? memrchr(text, '\n', size) : NULL;
    return end ? (size_t)(end - text) + 1 : len > size ? size : len;
}

/* Never waits for a reader: it would be everybody's who is served. O_NONBLOCK is not ours to set, since others may have
 * the same stderr. A pipe that is writable takes PIPE_BUF bytes (POSIX, write()). The bytes taken; 0: not now; less: a
 * stream that takes none any more. */
static ssize_t write_some(mode_t kind, const char *text, size_t len)
{
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    ssize_t n;
    if (S_ISSOCK(kind))
        n = send(STDERR_FILENO, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (S_ISREG(kind))
        n = write(STDERR_FILENO, text, len);
    else if (poll(&ready, 1, 0) <= 0)
        return 0;
    else
        n = write(STDERR_FILENO, text, whole_lines(text, len, PIPE_BUF));
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : n > 0 ? n : -1;
}

/* One thread at a time: what poll said holds, and lines stay whole. */
static size_t write_lines(const char *text, size_t len)
{
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    struct stat about = {0};
    size_t done = 0;
    ssize_t n = 1;
    fstat(STDERR_FILENO, &about);
    pthread_mutex_lock(&turn);
    while (done < len && n > 0) {
        n = write_some(about.st_mode, text + done, len - done);
        done += n > 0 ? (size_t)n : 0;
    }
    pthread_mutex_unlock(&turn);
    return n < 0 ? len : done; /* there is no other place to complain */
}

static void write_waiting(struct log *log)
{
    size_t done = write_lines(log->lines.text, log->lines.len);
    log->lines.len -= done;
    if (log->lines.len == 0)
        draft_clear(&log->lines);
    else if (done > 0)
        memmove(log->lines.text, log->lines.text + done, log->lines.len);
}

void log_flush(struct log *log)
{
    if (log->lines.len > 0)
        write_waiting(log);
    if (log->lines.len > 0 || log->lost == 0 || !log_begin(log, DEPUTY_LOG_WARN, "lines of this log were lost"))
        return;
    log_number(log, "lines", log->lost);
    log_text(log, "why", "nobody read them in time");
    log->lost = 0;
    log_end(log);
    write_waiting(log);
}

void log_free(struct log *log)
{
    log_flush(log);
    draft_free(&log->lines);
}
