#include "live_server.h"

#include "control.h"
#include "gpu.h"
#include "json_out.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

enum { LAST_LINES = 5, MAX_LINE = 160 };

/* -1: not known. */
static int64_t gpu_bytes(yajl_val live)
{
    double seen = control_number(live, "gpuBytes", -1);
    return seen >= 0 ? (int64_t)seen : gpu_memory((int64_t)control_number(live, "pid", 0));
}

/* ---- for people ---------------------------------------------------------------------------------------------------
 */

static void print_duration(double seconds)
{
    if (seconds < 60)
        printf("%.0f s", seconds);
    else if (seconds < 3600)
        printf("%.0f min", seconds / 60);
    else
        printf("%.1f h", seconds / 3600);
}

static void print_bytes(const char *what, double bytes)
{
    if (bytes < 1 << 30)
        printf(", %s %.1f MiB", what, bytes / (1 << 20));
    else
        printf(", %s %.1f GiB", what, bytes / (1 << 30));
}

static void print_text(const char *what, const char *text)
{
    if (!text)
        return;
    printf("  %s: ", what);
    text_print(stdout, text, strlen(text));
    putchar('\n');
}

void live_server_output(FILE *out, const char *output)
{
    size_t len = output ? strlen(output) : 0;
    while (len > 0 && (output[len - 1] == '\n' || output[len - 1] == '\r'))
        len--;
    size_t begin = len;
    for (int lines = 0; begin > 0; begin--)
        if (output[begin - 1] == '\n' && ++lines == LAST_LINES)
            break;
    for (size_t at = begin; at < len;) {
        const char *end = memchr(output + at, '\n', len - at);
        size_t n = end ? (size_t)(end - output) - at : len - at;
        fputs("  | ", out);
        text_print(out, output + at, n < MAX_LINE ? n : MAX_LINE);
        fputc('\n', out);
        at += n + 1;
    }
}

static void print_running(yajl_val live)
{
    double uptime_ms = control_number(live, "uptimeMs", 0);
    if (control_number(live, "pid", 0) < 1)
        return;
    fputs(", up ", stdout);
    print_duration(uptime_ms / 1000);
    printf(", pid %.0f, port %.0f, %.0f runs, %.0f waiting", control_number(live, "pid", 0),
           control_number(live, "port", 0), control_number(live, "active", 0), control_number(live, "queued", 0));
    print_bytes("memory", control_number(live, "memoryBytes", 0));
    int64_t gpu = gpu_bytes(live);
    if (gpu >= 0)
        print_bytes("GPU", (double)gpu);
}

void live_server_print(yajl_val live)
{
    const char *name = control_text(live, "name"), *state = control_text(live, "state");
    if (!control_flag(live, "managed") || !name)
        return;
    text_print(stdout, name, strlen(name));
    printf(": %s", state ? state : "?");
    print_running(live);
    printf("; %.0f starts, %.0f crashes", control_number(live, "starts", 0), control_number(live, "crashes", 0));
    if (control_number(live, "readySeconds", 0) > 0)
        printf(", ready after %.1f s", control_number(live, "readySeconds", 0));
    putchar('\n');
    print_text("last exit", control_text(live, "lastExit"));
    print_text("problem", control_text(live, "problem"));
    live_server_output(stdout, control_text(live, "output"));
}

/* ---- for programs -------------------------------------------------------------------------------------------------
 */

void live_server_json(yajl_gen json, yajl_val live)
{
    static const char *const texts[] = {"state", "lastExit", "problem", "output"};
    static const char *const numbers[] = {"pid",    "port",   "since",   "uptimeMs", "active",
                                          "queued", "starts", "crashes", "stops",    "memoryBytes"};
    char seconds[400]; /* of any double */
    if (!control_flag(live, "managed"))
        return;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        json_key(json, texts[i]);
        json_string(json, control_text(live, texts[i]));
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        json_key(json, numbers[i]);
        yajl_gen_integer(json, (long long)control_number(live, numbers[i], 0));
    }
    json_key(json, "readySeconds");
    int len = snprintf(seconds, sizeof(seconds), "%.3f", control_number(live, "readySeconds", 0));
    yajl_gen_number(json, seconds, (size_t)len);
    int64_t gpu = gpu_bytes(live);
    json_key(json, "gpuBytes");
    if (gpu < 0)
        yajl_gen_null(json);
    else
        yajl_gen_integer(json, gpu);
}
