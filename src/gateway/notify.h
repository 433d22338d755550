/* gateway/notify.h - tells the service manager how it goes, by the protocol of sd_notify(3): one datagram to
 * $NOTIFY_SOCKET. Without that variable it does nothing. */
#ifndef GATEWAY_NOTIFY_H
#define GATEWAY_NOTIFY_H

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);

#endif
