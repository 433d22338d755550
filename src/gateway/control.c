#include "gateway/control.h"

#include "gateway/chief.h"
#include "gateway/facts.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE_MS = 5000, MAX_REPLY = 16 << 20, MAX_CONNECTIONS = 32, MAX_BODY = 64 << 10 };

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void reply(struct http1_exchange *exchange, int status, struct draft *text)
{
    static const struct http1_header headers[] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};
    bool ok = !text->failed;
    http1_reply(exchange, ok ? status : 500, headers, 2, text->text, ok ? text->len : 0);
    draft_free(text);
}

static void reply_with_error(struct http1_exchange *exchange, int status, const char *message)
{
    struct draft text = DRAFT(MAX_BODY);
    draft_word(&text, "{\"error\":{\"message\":");
    draft_json(&text, message);
    draft_word(&text, "}}\n");
    reply(exchange, status, &text);
}

/* The members that begin each object: who answers. */
static void write_self(struct chief *chief, struct draft *to)
{
    struct worker *w = chief_worker(chief);
    const struct gateway_settings *s = &w->current->setup->settings;
    draft_print(to, "{\"version\":\"%s\",\"pid\":%ld,\"draining\":%s,\"config\":", deputy_version(), (long)getpid(),
                atomic_load(&chief->gateway.draining) ? "true" : "false");
    draft_json(to, s->config_file);
    draft_word(to, ",\"policy\":");
    draft_json(to, chief->reload.script);
    draft_word(to, ",\"listen\":");
    draft_json(to, w->server ? http1_address(w->server) : chief->listen);
    draft_word(to, ",");
    metrics_write_summary(chief->gateway.metrics, to);
}

static void answer_status(struct chief *chief, struct http1_exchange *exchange)
{
    struct draft text = DRAFT(MAX_REPLY);
    write_self(chief, &text);
    draft_word(&text, "}\n");
    reply(exchange, 200, &text);
}

static void write_providers(struct worker *w, struct http1_exchange *exchange, enum facts_for whom)
{
    struct draft text = DRAFT(MAX_REPLY);
    if (w->server)
        worker_report(w);
    write_self((struct chief *)w->gateway, &text);
    draft_word(&text, ",");
    facts_write_json(w, whom, &text);
    draft_word(&text, "}\n");
    reply(exchange, 200, &text);
}

static void answer_providers(struct worker *w, struct http1_exchange *exchange)
{
    bool with_output = strcmp(http1_target(exchange), "/providers?output") == 0;
    write_providers(w, exchange, with_output ? FACTS_WITH_OUTPUT : FACTS_FOR_OPERATORS);
}

static void on_reloaded(struct chief *chief, struct http1_exchange *exchange, bool ok, const char *problem)
{
    (void)chief;
    if (ok) {
        struct draft text = DRAFT(MAX_BODY);
        draft_word(&text, "{\"reloaded\":true}\n");
        reply(exchange, 200, &text);
    } else {
        reply_with_error(exchange, 409, problem);
    }
}

/* ---- what an operator asks for ---------------------------------------------------------------------------------- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* False when it is no name. */
static bool decode(const char *from, size_t len, char out[DEPUTY_NAME_SIZE])
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int byte = (unsigned char)from[i];
        if (from[i] == '%') {
            int high = i + 2 < len ? hex(from[i + 1]) : -1, low = i + 2 < len ? hex(from[i + 2]) : -1;
            byte = high < 0 || low < 0 ? 0 : high * 16 + low;
            i += 2;
        }
        if (byte == 0 || n + 1 >= DEPUTY_NAME_SIZE)
            return false;
        out[n++] = (char)byte;
    }
    out[n] = '\0';
    return n > 0;
}

/* "/providers/NAME/VERB" in two. */
static bool read_command(const char *target, char name[DEPUTY_NAME_SIZE], const char **verb)
{
    static const char prefix[] = "/providers/";
    const char *from = target + sizeof(prefix) - 1, *slash;
    if (strncmp(target, prefix, sizeof(prefix) - 1) != 0 || !(slash = strchr(from, '/')))
        return false;
    *verb = slash + 1;
    return decode(from, (size_t)(slash - from), name) &&
           (strcmp(*verb, "start") == 0 || strcmp(*verb, "stop") == 0 || strcmp(*verb, "restart") == 0);
}

static void do_command(struct chief *chief, struct http1_exchange *exchange, const char *name, const char *verb)
{
    const struct gateway_host *host = chief->gateway.host;
    deputy_error error = {0, ""};
    struct draft text = DRAFT(MAX_BODY);
    int code = DEPUTY_EINVAL;
    snprintf(error.message, sizeof(error.message), "'%s' is not a provider that deputy starts or stops", name);
    if (host->command)
        code = host->command(host->user, chief_worker(chief)->current->setup->loaded, name, verb, &error);
    if (code != DEPUTY_OK) {
        reply_with_error(exchange, code == DEPUTY_ENOTFOUND ? 404 : 409, error.message);
        return;
    }
    log_say(&chief_worker(chief)->log, DEPUTY_LOG_INFO, verb, "provider", name);
    draft_word(&text, "{\"provider\":");
    draft_json(&text, name);
    draft_print(&text, ",\"%s\":true}\n", verb);
    reply(exchange, 202, &text);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static void on_request(void *user, struct http1_exchange *exchange)
{
    struct chief *chief = user;
    char name[DEPUTY_NAME_SIZE];
    const char *method = http1_method(exchange), *target = http1_target(exchange), *verb;
    bool is_get = strcmp(method, "GET") == 0, is_post = strcmp(method, "POST") == 0;
    if (is_get && strcmp(target, "/status") == 0)
        answer_status(chief, exchange);
    else if (is_get && (strcmp(target, "/providers") == 0 || strcmp(target, "/providers?output") == 0))
        survey_ask(&chief_worker(chief)->survey, PATIENCE_MS, exchange, answer_providers);
    else if (is_post && strcmp(target, "/reload") == 0)
        reload_ask(chief, exchange, on_reloaded);
    else if (is_post && read_command(target, name, &verb))
        do_command(chief, exchange, name, verb);
    else
        reply_with_error(exchange, 404,
                         "there are GET /status, GET /providers, POST /reload and POST "
                         "/providers/NAME/start, stop and restart");
}

static void on_gone(void *user, struct http1_exchange *exchange)
{
    struct chief *chief = user;
    if (!survey_forget(&chief_worker(chief)->survey, exchange))
        reload_forget(chief, exchange);
}

/* ---- the socket ------------------------------------------------------------------------------------------------- */

static int listen_at(struct chief *chief, const char *address, struct http1_server **server, char *problem, size_t size)
{
    const struct http1_limits limits = {.max_connections = MAX_CONNECTIONS, .max_body_bytes = MAX_BODY};
    const struct http1_handler handler = {.user = chief, .on_request = on_request, .on_gone = on_gone};
    return http1_listen(&chief_worker(chief)->loop, address, false, -1, &limits, &handler, server, problem, size);
}

static void take(struct control *control, struct http1_server *server, const char *address)
{
    control->server = server;
    snprintf(control->address, sizeof(control->address), "%s", address);
}

static void close_old(struct control *control)
{
    if (control->old)
        http1_close(control->old, NULL, NULL);
    control->old = NULL;
}

/* Whoever is being answered there still gets the answer. */
static void retire(struct control *control)
{
    close_old(control);
    if (control->server)
        http1_drain(control->server);
    control->old = control->server;
    control->server = NULL;
    control->address[0] = '\0';
}

bool control_open(struct chief *chief, const struct gateway_settings *s)
{
    struct http1_server *server;
    char problem[400];
    if (!s->control)
        return true;
    if (listen_at(chief, s->control, &server, problem, sizeof(problem)) == 0) {
        take(&chief->control, server, s->control);
        return true;
    }
    if (!s->control_is_default) {
        fprintf(stderr, "deputy serve: gateway.control: %s\n", problem);
        return false;
    }
    log_say(&chief_worker(chief)->log, DEPUTY_LOG_WARN, "no control socket (gateway.control)", "problem", problem);
    return true;
}

void control_explain(struct chief *chief)
{
    if (!chief->control.server && !chief_worker(chief)->current->setup->settings.control)
        log_say(&chief_worker(chief)->log, DEPUTY_LOG_INFO,
                "no control socket: XDG_RUNTIME_DIR is not set, and gateway.control names none", NULL, NULL);
}

void control_renew(struct chief *chief, const struct gateway_settings *s)
{
    struct http1_server *server = NULL;
    struct log *log = &chief_worker(chief)->log;
    char problem[400];
    if (strcmp(s->control ? s->control : "", chief->control.server ? chief->control.address : "") == 0)
        return;
    if (s->control && listen_at(chief, s->control, &server, problem, sizeof(problem)) != 0) {
        log_say(log, DEPUTY_LOG_WARN, "gateway.control stays as it was", "problem", problem);
        return;
    }
    retire(&chief->control);
    if (server)
        take(&chief->control, server, s->control);
    log_say(log, DEPUTY_LOG_INFO, "control socket", "address", s->control ? s->control : "none");
}

void control_close(struct chief *chief)
{
    retire(&chief->control);
    close_old(&chief->control);
}
