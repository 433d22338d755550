#include "relay/log.h"

#include <stdio.h>
#include <string.h>
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

void log_flush(struct log *log)
{
    const char *at = log->lines.text;
    size_t left = log->lines.len;
    while (left > 0) {
        ssize_t n = write(STDERR_FILENO, at, left);
        if (n <= 0)
            break; /* nobody reads it: there is no other place to complain */
        at += n;
        left -= (size_t)n;
    }
    draft_clear(&log->lines);
}

void log_free(struct log *log)
{
    log_flush(log);
    draft_free(&log->lines);
}
