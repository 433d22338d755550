/* core/query.h - a question to one provider outside any run. */
#ifndef CORE_QUERY_H
#define CORE_QUERY_H

#include "core/call.h"

enum { QUERIES_MAX = 256 };

/* What is asked, and who is told. */
struct question {
    const char *provider; /* its name */
    enum call_purpose purpose;
    uint32_t timeout_ms; /* 0: connect_ms */
    deputy_model_fn each;
    deputy_answer_fn on_answer;
    void *user;
};

/* Asks from the loop's next turn on; on_answer comes once, from the loop. DEPUTY_OK, or a code with error filled. */
int query_start(deputy_engine *engine, const struct question *question, deputy_error *error);

/* Sends what is new and tells of what is over. */
void queries_step(deputy_engine *engine);

/* Ends all of them; each is told so. */
void queries_end(deputy_engine *engine);

#endif
