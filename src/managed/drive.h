/* managed/drive.h - turns the table of life.h: what happens becomes events, actions become deeds. The owner's thread.
 */
#ifndef MANAGED_DRIVE_H
#define MANAGED_DRIVE_H

#include "managed/life.h"
#include "managed/owner.h"

/* Takes a new one over. */
void drive_begin(struct deputy_managed *managed);

/* Looks at what the callers want. False when it is to be given up: closing, and nothing runs. */
bool drive_step(struct deputy_managed *managed);

/* Frees it once its handles are closed. */
void drive_end(struct deputy_managed *managed);

/* ---- from the child ---------------------------------------------------------------------------------------------- */

void drive_started(struct deputy_managed *managed, pid_t pid);

/* The server has ended: by itself, or because it was told to. hopeless: the next start would end the same way. */
void drive_ended(struct deputy_managed *managed, const char *how, bool hopeless);

/* The last process of the family is gone, and all output was read. */
void drive_gone(struct deputy_managed *managed);

void drive_output(struct deputy_managed *managed, const char *bytes, size_t len);

/* ---- from launch and health -------------------------------------------------------------------------------------- */

void drive_fire(struct deputy_managed *managed, enum life_event event);

/* Notes what went wrong, before the event that follows from it, and counts it. */
void drive_failed(struct deputy_managed *managed, const char *format, ...) __attribute__((format(printf, 2, 3)));

void drive_timer(struct deputy_managed *managed, enum managed_timer timer, uint64_t ms);

/* Those whose exchange broke know all there is to know. */
void drive_clear_suspects(struct deputy_managed *managed);

#endif
