/* gateway/page.h - the page for people, and what it asks for. */
#ifndef GATEWAY_PAGE_H
#define GATEWAY_PAGE_H

#include "gateway/worker.h"

/* The page itself: one HTML document that loads nothing. */
void page_reply(struct worker *worker, struct http1_exchange *exchange);

/* What it shows, as JSON. */
void page_data_reply(struct worker *worker, struct http1_exchange *exchange);

#endif
