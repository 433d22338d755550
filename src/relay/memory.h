/* memory.h - the heap of a program that serves for months. */
#ifndef RELAY_MEMORY_H
#define RELAY_MEMORY_H

/* Once, by a program that serves, before it has threads. */
void memory_begin(void);

/* What this thread keeps at hand to allocate faster is free for all again: for now and then, when it has little to do.
 */
void memory_settle(void);

/* What is free goes back to the system now, not when somebody allocates next. Any thread. */
void memory_trim(void);

#endif
