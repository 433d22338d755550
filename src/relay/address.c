#include "relay/address.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

bool address_split(const char *text, char *host, size_t size, const char **port)
{
    const char *end, *start = text;
    if (*text == '[') {
        start = text + 1;
        end = strchr(start, ']');
        if (!end || (end[1] != '\0' && end[1] != ':'))
            return false;
        *port = end[1] ? end + 2 : "";
    } else {
        end = strchrnul(text, ':');
        *port = *end ? end + 1 : "";
    }
    size_t len = (size_t)(end - start);
    if (len == 0 || len >= size || strspn(*port, "0123456789") != strlen(*port))
        return false;
    memcpy(host, start, len);
    host[len] = '\0';
    return true;
}

bool address_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool address_is_local(const char *listen)
{
    char host[256];
    const char *port;
    if (strncmp(listen, "unix:", 5) == 0)
        return true;
    return address_split(listen, host, sizeof(host), &port) && address_is_loopback(host);
}
