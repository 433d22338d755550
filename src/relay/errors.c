#include "relay/errors.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_HEADERS = 24, MAX_BODY = 8192 };

bool problem_set(struct problem *problem, int status, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(problem->message, sizeof(problem->message), format, args);
    va_end(args);
    problem->status = status;
    problem->code = code;
    problem->header = problem->value = NULL;
    return false;
}

enum { UNREACHABLE, TIMEOUT, MALFORMED, TOO_LARGE, CUT, N_CODES };

/* Which leg and what kind, in words of ours: failure->message may name addresses that are none of the caller's
 * business.
 */
static const char *words_for(deputy_failure_kind kind)
{
    switch (kind) {
    case DEPUTY_FAILURE_CONNECT:
    case DEPUTY_FAILURE_DNS:
    case DEPUTY_FAILURE_TLS:
        return "could not be reached";
    case DEPUTY_FAILURE_TIMEOUT:
        return "did not answer in time";
    case DEPUTY_FAILURE_DEADLINE:
        return "did not answer before the request's deadline";
    case DEPUTY_FAILURE_CUT:
        return "broke off before its reply was complete";
    case DEPUTY_FAILURE_MALFORMED:
        return "sent a reply that is of no use";
    case DEPUTY_FAILURE_STATUS:
    case DEPUTY_FAILURE_IN_BAND:
        return "answered with an error";
    case DEPUTY_FAILURE_LIMIT:
        return "sent more than is taken here";
    case DEPUTY_FAILURE_REFUSED:
        return "cannot be asked this";
    case DEPUTY_FAILURE_CANCELLED:
        return "was no longer waited for";
    case DEPUTY_FAILURE_NONE:
    case DEPUTY_FAILURE_ERROR:
        break;
    }
    return "failed";
}

bool failure_is_ours(deputy_failure_kind kind)
{
    return kind != DEPUTY_FAILURE_STATUS && kind != DEPUTY_FAILURE_IN_BAND;
}

void problem_from_failure(struct problem *problem, const deputy_failure *failure, enum culprit culprit, bool begun)
{
    static const char *const codes[][N_CODES] = {
        [CULPRIT_PRIMARY] = {"primary_unreachable", "primary_timeout", "primary_malformed", "primary_too_large",
                             "primary_cut"},
        [CULPRIT_LOCAL] = {"local_unreachable", "local_timeout", "local_malformed", "local_too_large", "local_cut"},
        [CULPRIT_UPSTREAM] = {"upstream_unreachable", "upstream_timeout", "upstream_malformed", "upstream_too_large",
                              "upstream_cut"},
    };
    static const char *const names[] = {
        [CULPRIT_PRIMARY] = "the central",
        [CULPRIT_LOCAL] = "the local provider",
        [CULPRIT_UPSTREAM] = "the model's server",
    };
    const char *code = codes[culprit][UNREACHABLE];
    int status = 502;
    switch (failure->kind) {
    case DEPUTY_FAILURE_TIMEOUT:
    case DEPUTY_FAILURE_DEADLINE:
        status = 504;
        code = codes[culprit][TIMEOUT];
        break;
    case DEPUTY_FAILURE_CUT:
        code = codes[culprit][begun ? CUT : MALFORMED];
        break;
    case DEPUTY_FAILURE_MALFORMED:
    case DEPUTY_FAILURE_IN_BAND:
        code = codes[culprit][MALFORMED];
        break;
    case DEPUTY_FAILURE_LIMIT:
        code = codes[culprit][TOO_LARGE];
        break;
    case DEPUTY_FAILURE_CANCELLED:
        status = 503;
        code = "shutting_down";
        break;
    case DEPUTY_FAILURE_NONE:
    case DEPUTY_FAILURE_ERROR:
    case DEPUTY_FAILURE_STATUS:
    case DEPUTY_FAILURE_CONNECT:
    case DEPUTY_FAILURE_DNS:
    case DEPUTY_FAILURE_TLS:
    case DEPUTY_FAILURE_REFUSED:
        break;
    }
    const char *kind = deputy_failure_name(failure->kind);
    bool detailed = failure_is_ours(failure->kind) && failure->code[0] && strcmp(failure->code, kind) != 0;
    problem_set(problem, status, code, "%s %s (%s%s%s)", names[culprit], words_for(failure->kind), kind,
                detailed ? ": " : "", detailed ? failure->code : "");
}

/* The types that the libraries of OpenAI and Anthropic know. */
static const char *type_of(enum dialect dialect, int status)
{
    bool anthropic = dialect == DIALECT_MESSAGES;
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return anthropic ? "not_found_error" : "invalid_request_error";
    case 413:
        return anthropic ? "request_too_large" : "invalid_request_error";
    case 503:
        return anthropic ? "overloaded_error" : "service_unavailable_error";
    default:
        return status < 500 ? "invalid_request_error" : anthropic ? "api_error" : "upstream_error";
    }
}

static void write_error(struct draft *to, enum dialect dialect, const struct problem *problem)
{
    const char *type = type_of(dialect, problem->status);
    draft_word(to,
               dialect == DIALECT_MESSAGES ? "{\"type\":\"error\",\"error\":{\"type\":" : "{\"error\":{\"message\":");
    draft_json(to, dialect == DIALECT_MESSAGES ? type : problem->message);
    draft_word(to, dialect == DIALECT_MESSAGES ? ",\"message\":" : ",\"type\":");
    draft_json(to, dialect == DIALECT_MESSAGES ? problem->message : type);
    draft_word(to, dialect == DIALECT_MESSAGES ? ",\"code\":" : ",\"param\":null,\"code\":");
    draft_json(to, problem->code);
    draft_word(to, "}}");
}

void problem_reply(struct http1_exchange *exchange, enum dialect dialect, const struct problem *problem,
                   const struct http1_header *headers, size_t n_headers)
{
    struct http1_header all[MAX_HEADERS] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};
    struct draft body = DRAFT(MAX_BODY);
    size_t n = 2;
    if (problem->header)
        all[n++] = (struct http1_header){problem->header, problem->value};
    for (size_t i = 0; i < n_headers && n < MAX_HEADERS; i++)
        all[n++] = headers[i];
    write_error(&body, dialect, problem);
    draft_word(&body, "\n");
    http1_reply(exchange, problem->status, all, n, body.text, body.failed ? 0 : body.len);
    draft_free(&body);
}

void problem_event(struct draft *to, enum dialect dialect, const struct problem *problem)
{
    if (dialect == DIALECT_RESPONSES) { /* flat, by OpenAI's schema of this event */
        draft_word(to, "event: error\ndata: {\"type\":\"error\",\"code\":");
        draft_json(to, problem->code);
        draft_word(to, ",\"message\":");
        draft_json(to, problem->message);
        draft_word(to, ",\"param\":null,\"sequence_number\":0}\n\n");
        return;
    }
    draft_word(to, dialect == DIALECT_MESSAGES ? "event: error\ndata: " : "data: ");
    write_error(to, dialect, problem);
    draft_word(to, "\n\n");
}
