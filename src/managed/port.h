/* managed/port.h - TCP ports of 127.0.0.1. Any thread. What is free now may be taken a moment later. */
#ifndef MANAGED_PORT_H
#define MANAGED_PORT_H

#include <stdint.h>

/* 0 when nobody listens there (connections that have just ended do not count), or why it cannot be had: EADDRINUSE, or
 * another errno. */
int port_check(uint16_t port);

/* One that is free, or 0. */
uint16_t port_pick(void);

#endif
