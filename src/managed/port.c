#include "managed/port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

/* The port that could be bound, or 0 and errno. */
static uint16_t try_to_bind(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* as servers do */
    bool bound = bind(fd, (struct sockaddr *)&at, len) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0;
    int why = errno;
    close(fd);
    errno = why;
    return bound ? ntohs(at.sin_port) : 0;
}

int port_check(uint16_t port)
{
    return try_to_bind(port) == port ? 0 : errno;
}

uint16_t port_pick(void)
{
    return try_to_bind(0);
}
