/* relay/notify.h - tells the service manager how it goes, by the protocol of sd_notify(3): one datagram to
 * $NOTIFY_SOCKET. Without that variable it does nothing. */
#ifndef RELAY_NOTIFY_H
#define RELAY_NOTIFY_H

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);

#endif
