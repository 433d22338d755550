/* relay/address.h - names of hosts, as they stand in settings and in Host headers. */
#ifndef RELAY_ADDRESS_H
#define RELAY_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/* The host of "host", "host:port" or "[v6]:port", brackets left out; *port is "" when there is none. False when it is
 * none of them, or size is too small. */
bool address_split(const char *text, char *host, size_t size, const char **port);

/* "localhost", 127.0.0.0/8 and ::1. */
bool address_is_loopback(const char *host);

/* Is this listener open to this machine alone? "127.0.0.1:1", "[::1]:1", "localhost:1" and "unix:..." are. */
bool address_is_local(const char *listen);

#endif
