#include "answer.h"
#include "ask_report.h"
#include "host.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <yajl/yajl_gen.h>

enum { MAX_PROMPT = 32 << 20, MAX_REPLY = 64 << 20, REDRAW_MS = 100 };

struct ask {
    struct host host;
    const char *llm;
    bool has_stand_in, over, ends_line;
    int status;  /* of the reply's head */
    bool events; /* it is a stream of events, and is printed as it comes */
    struct answer answer;
    struct text reply;  /* its bytes, unless they are printed as they come */
    const char *broken; /* why we ended the run ourselves, or NULL */
    int exit_code;
};

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

/* ---- the request ------------------------------------------------------------------------------------------------ */

static int read_prompt(const struct command *command, struct text *prompt)
{
    char bytes[65536];
    for (size_t n; (n = fread(bytes, 1, sizeof(bytes), stdin)) > 0;)
        if (!text_add(prompt, bytes, n, MAX_PROMPT))
            return complain(command, "the prompt on stdin is over %d bytes", MAX_PROMPT);
    if (ferror(stdin))
        return complain(command, "cannot read the prompt from stdin: %s", strerror(errno));
    return STATUS_OK;
}

static bool gen(yajl_gen json, const char *text, size_t len)
{
    return yajl_gen_string(json, (const unsigned char *)text, len) == yajl_gen_status_ok;
}

static bool gen_message(yajl_gen json, const char *role, const char *content, size_t len)
{
    return yajl_gen_map_open(json) == yajl_gen_status_ok && gen(json, "role", 4) && gen(json, role, strlen(role)) &&
           gen(json, "content", 7) && gen(json, content, len) && yajl_gen_map_close(json) == yajl_gen_status_ok;
}

/* A chat completion (OpenAI's API). False when a text is not UTF-8. */
static bool gen_body(yajl_gen json, const struct options *options, const struct text *prompt)
{
    const char *llm = options->operands[0];
    bool ok = yajl_gen_map_open(json) == yajl_gen_status_ok && gen(json, "model", 5) && gen(json, llm, strlen(llm)) &&
              gen(json, "messages", 8) && yajl_gen_array_open(json) == yajl_gen_status_ok;
    if (options->system)
        ok = ok && gen_message(json, "system", options->system, strlen(options->system));
    ok = ok && gen_message(json, "user", prompt->bytes ? prompt->bytes : "", prompt->len) &&
         yajl_gen_array_close(json) == yajl_gen_status_ok;
    if (options->stream)
        ok = ok && gen(json, "stream", 6) && yajl_gen_bool(json, 1) == yajl_gen_status_ok;
    return ok && yajl_gen_map_close(json) == yajl_gen_status_ok;
}

/* ---- the reply -------------------------------------------------------------------------------------------------- */

static void print_text(void *user, const char *text, size_t len)
{
    struct ask *ask = user;
    progress_clear(&ask->host.progress);
    fwrite(text, 1, len, stdout);
    ask->ends_line = len > 0 ? text[len - 1] == '\n' : ask->ends_line;
}

static void on_head(void *user, int status, const deputy_header *headers, size_t n)
{
    struct ask *ask = user;
    static const char type[] = "text/event-stream";
    ask->status = status;
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(headers[i].name, "content-type") == 0)
            ask->events = status >= 200 && status <= 299 && ask->host.options->stream &&
                          strncasecmp(headers[i].value, type, sizeof(type) - 1) == 0;
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct ask *ask = user;
    if (!ask->events) {
        if (text_add(&ask->reply, bytes, len, MAX_REPLY))
            return DEPUTY_OK;
        ask->broken = "the answer is over 64 MiB";
        return DEPUTY_ECANCELED;
    }
    if (!answer_feed(&ask->answer, bytes, len))
        ask->broken = "an event of the stream is over 16 MiB";
    else if (fflush(stdout) != 0)
        ask->broken = "cannot write to stdout";
    return ask->broken ? DEPUTY_ECANCELED : DEPUTY_OK;
}

static int report_answer(struct ask *ask, const struct ask_end *end)
{
    const struct command *command = ask->host.options->command;
    if (!ask->events && !answer_read(&ask->answer, ask->reply.bytes ? ask->reply.bytes : "", ask->reply.len))
        return complain(command, "the answer is not JSON; see --json for what came");
    if (!ask->answer.any)
        complain(command, "the answer has no text in it; see --json for what came");
    else if (!ask->ends_line)
        putchar('\n');
    if (end->outcome->failover && (ask->host.progress.on || ask->host.options->verbose))
        report_stand_in(end);
    return STATUS_OK;
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct ask *ask = user;
    const struct command *command = ask->host.options->command;
    const struct ask_end end = {&ask->host, outcome, ask->llm, &ask->reply, ask->has_stand_in};
    ask->over = true;
    progress_clear(&ask->host.progress);
    if (ask->events && ask->answer.any && !ask->ends_line && outcome->result != DEPUTY_RESULT_OK)
        putchar('\n');
    if (caught) {
        ask->exit_code = 128 + caught;
        complain(command, "cancelled");
    } else if (ask->broken) {
        ask->exit_code = complain(command, "%s", ask->broken);
    } else if (ask->host.options->json && !report_json(&end)) {
        ask->exit_code = complain(command, "out of memory");
    } else if (outcome->result != DEPUTY_RESULT_OK) {
        ask->exit_code = STATUS_FAILED;
        report_failure(&end);
    } else {
        ask->exit_code = ask->host.options->json ? STATUS_OK : report_answer(ask, &end);
    }
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Signals come only while ppoll waits, so that none is missed. A second one ends the program at once. */
static void watch_signals(sigset_t *before)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigset_t block;
    sigemptyset(&action.sa_mask);
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    sigprocmask(SIG_BLOCK, &block, before);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* A model that loads says so: it can take minutes. */
static bool show_server(struct ask *ask, const deputy_trace *leg)
{
    char last_line[256];
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    deputy_managed *managed =
        leg->leg == DEPUTY_LEG_LOCAL && leg->provider ? managed_find(ask->host.managed, leg->provider) : NULL;
    if (!managed)
        return false;
    deputy_managed_status_of(managed, &status);
    if (status.state == DEPUTY_MANAGED_READY)
        return false;
    managed_last_line(managed, last_line, sizeof(last_line));
    progress_show_server(&ask->host.progress, deputy_managed_state_name(status.state), leg->provider, status.uptime_ms,
                         last_line);
    return true;
}

static void show_progress(struct ask *ask, deputy_run_id run, uint64_t us)
{
    deputy_trace leg;
    if (!ask->host.progress.on || ask->over || ask->answer.any ||
        deputy_progress(ask->host.engine, run, &leg) != DEPUTY_OK)
        return;
    if (!show_server(ask, &leg))
        progress_show(&ask->host.progress, &leg, ask->llm, us);
}

static void drive(struct ask *ask, deputy_run_id run, const sigset_t *waiting)
{
    deputy_engine *engine = ask->host.engine;
    uint64_t start = now_us();
    bool cancelled = false;
    while (!ask->over) {
        struct pollfd fd = {.fd = deputy_fd(engine), .events = POLLIN};
        int ms = deputy_timeout(engine);
        if (ask->host.progress.on && (ms < 0 || ms > REDRAW_MS))
            ms = REDRAW_MS;
        struct timespec timeout = {ms / 1000, ms % 1000 * 1000000L};
        ppoll(&fd, 1, ms < 0 ? NULL : &timeout, waiting);
        if (caught && !cancelled) {
            cancelled = true;
            deputy_cancel(engine, run);
        }
        deputy_pump(engine);
        show_progress(ask, run, now_us() - start);
    }
}

static int start(struct ask *ask, const unsigned char *body, size_t len)
{
    const struct options *options = ask->host.options;
    deputy_error error;
    deputy_run_id run;
    sigset_t before;
    deputy_request request = DEPUTY_INIT(deputy_request);
    request.llm = ask->llm;
    request.body = body;
    request.body_len = len;
    request.total_ms = options->timeout_ms;
    request.whole = !options->stream;
    const deputy_sink sink = {
        .size = sizeof(sink), .user = ask, .on_head = on_head, .on_bytes = on_bytes, .on_end = on_end};
    watch_signals(&before);
    if (deputy_start(ask->host.engine, &request, &sink, &run, &error) != DEPUTY_OK)
        return complain(options->command, "%s", error.message);
    drive(ask, run, &before);
    return ask->exit_code;
}

static int ask_for(struct ask *ask, const struct text *prompt)
{
    const struct command *command = ask->host.options->command;
    const unsigned char *body = NULL;
    size_t len = 0;
    int status;
    yajl_gen json = yajl_gen_alloc(NULL);
    if (!json)
        return complain(command, "out of memory");
    yajl_gen_config(json, yajl_gen_validate_utf8, 1);
    if (!gen_body(json, ask->host.options, prompt))
        status = usage_error(command, "the prompt, the system message and the LLM's name must be UTF-8");
    else if (yajl_gen_get_buf(json, &body, &len) != yajl_gen_status_ok)
        status = complain(command, "out of memory");
    else
        status = start(ask, body, len);
    deputy_engine_free(ask->host.engine); /* until here it may look at the body */
    ask->host.engine = NULL;
    yajl_gen_free(json);
    return status;
}

static int run(const struct options *options)
{
    struct ask ask = {.llm = options->operands[0], .exit_code = STATUS_FAILED};
    struct text prompt = {NULL, 0, 0};
    const char *given = options->operands[1];
    if (options->stream && options->json)
        return usage_error(options->command, "--stream and --json exclude each other");
    ask.answer.on_text = print_text;
    ask.answer.user = &ask;
    int status = host_open(options, &ask.host);
    if (status == STATUS_OK && strcmp(given, "-") == 0)
        status = read_prompt(options->command, &prompt);
    else if (status == STATUS_OK && !text_add(&prompt, given, strlen(given), MAX_PROMPT))
        status = complain(options->command, "out of memory");
    if (status == STATUS_OK) {
        ask.has_stand_in = deputy_failover_for(ask.host.engine, ask.llm) != NULL;
        status = ask_for(&ask, &prompt);
    }
    host_close(&ask.host);
    answer_free(&ask.answer);
    text_free(&ask.reply);
    text_free(&prompt);
    return status;
}

const struct command ask_command = {
    .name = "ask",
    .summary = "ask an LLM, and print its answer",
    .operands = "LLM PROMPT",
    .n_operands = 2,
    .accepts = OPTION_CONFIG | OPTION_STREAM | OPTION_SYSTEM | OPTION_TIMEOUT | OPTION_JSON | OPTION_VERBOSE,
    .about =
        "Asks the central for LLM and prints the answer's text. A PROMPT of - is read from stdin. When the central\n"
        "cannot answer, the provider that stands in for LLM does, if the central still allows it; otherwise the\n"
        "central's own error is said on stderr. --json prints one object instead: failover, via, result (or error)\n"
        "and trace. On a terminal a line shows which leg is under way and for how long.\n"
        "A provider whose server deputy starts itself is started when it is its turn, and stopped when deputy ask\n"
        "ends: for more than one question 'deputy serve' keeps it.\n",
    .exits = "  0    answered\n  1    failed: the error is on stderr\n  2    wrong arguments\n  130  interrupted\n",
    .example = "deputy ask claude \"Why is the sky blue?\"",
    .run = run,
};
