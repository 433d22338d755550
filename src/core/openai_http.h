/* core/openai_http.h - what providers share that speak OpenAI's HTTP to one server: a request with the model's name put
 * in, and the list of its models. */
#ifndef CORE_OPENAI_HTTP_H
#define CORE_OPENAI_HTTP_H

#include "core/upstream.h"

enum { OPENAI_MODEL_MAX = 256 };

/* A model's name as a member of a JSON object, with the comma behind it: malloc'ed, the caller's; NULL when out of
 * memory. */
char *openai_member(const char *model);

/* Fills up (method, url, headers, body; the rest is the caller's) for a request to base. member as openai_member makes
 * it: its name replaces that of the body, in the bytes, or it is put in where there is none; NULL: the body passes as
 * it came. *url is malloc'ed and the caller's: up borrows it. DEPUTY_OK, or a code and error says why the request
 * cannot be sent. */
int openai_request(const char *base, const char *member, const deputy_request *request, struct upstream_request *up,
                   char **url, deputy_error *error);

/* Answers a call that asks for the models of the server at base (CALL_MODELS), or only whether it is there
 * (CALL_AVAILABLE). Takes the call's data. Always DEPUTY_OK or DEPUTY_ENOMEM. */
int openai_query(struct deputy_call *call, const char *base, const char *bearer, const char *ca_file);

/* For the vtable's cancel, on such a call. */
void openai_query_cancel(struct deputy_call *call);

/* Answers a call with REFUSED: nothing was sent. */
void openai_refuse(struct deputy_call *call, const char *code, const char *message);

#endif
