/* relay/events.h - how far a stream of server-sent events has come, so that an event of our own can be put behind it.
 */
#ifndef RELAY_EVENTS_H
#define RELAY_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

enum { EVENTS_LINE_KEPT = 16 };

/* Zeroed at first: between two events. */
struct events {
    char line[EVENTS_LINE_KEPT]; /* how the line that is not ended begins */
    size_t line_len;             /* all of it */
    bool in_event;               /* a line of the event that is not ended is complete */
    bool after_cr;
};

void events_feed(struct events *events, const char *bytes, size_t len);

/* What has to come before an event of our own; NULL: none can be put there, since ending the line would make it one
 * that means "all is well". */
const char *events_break(const struct events *events);

#endif
