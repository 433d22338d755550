#include "managed/listener.h"

#include "managed/family.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { SOCKETS_MAX = 64 };

/* Of those that listen where 127.0.0.1 leads: more than one when they share the port. */
struct sockets {
    size_t n;
    struct {
        unsigned long inode;
        uid_t user;
        bool found;
    } each[SOCKETS_MAX];
};

/* False when there is no room for it. */
static bool add_socket(struct sockets *sockets, unsigned long inode, uid_t user)
{
    if (sockets->n == SOCKETS_MAX)
        return false;
    sockets->each[sockets->n].inode = inode;
    sockets->each[sockets->n].found = false;
    sockets->each[sockets->n++].user = user;
    return true;
}

/* 127.0.0.1 and any, as IPv4 or IPv6 have them. */
static bool leads_here(int family, const void *address)
{
    static const struct in6_addr any, mapped = {{{[10] = 0xFF, 0xFF, 127, 0, 0, 1}}};
    uint32_t v4;
    memcpy(&v4, address, sizeof(v4));
    if (family == AF_INET)
        return v4 == htonl(INADDR_LOOPBACK) || v4 == htonl(INADDR_ANY);
    return memcmp(address, &any, sizeof(any)) == 0 || memcmp(address, &mapped, sizeof(mapped)) == 0;
}

/* ---- asking the kernel ------------------------------------------------------------------------------------------- */

static bool send_question(int fd, int family, uint16_t port)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } question = {
        .head = {.nlmsg_len = sizeof(question),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = (uint8_t)family,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = 1u << TCP_LISTEN,
                 .id = {.idiag_sport = htons(port)}},
    };
    return send(fd, &question, sizeof(question), 0) == (ssize_t)sizeof(question);
}

/* 1: all was said; 0: more comes; -1: it was not, or does not fit. */
static int read_answer(const struct nlmsghdr *head, uint16_t port, struct sockets *sockets)
{
    struct inet_diag_msg m;
    if (head->nlmsg_type == NLMSG_DONE)
        return 1;
    if (head->nlmsg_type != SOCK_DIAG_BY_FAMILY || head->nlmsg_len < NLMSG_LENGTH(sizeof(m)))
        return -1;
    memcpy(&m, NLMSG_DATA(head), sizeof(m));
    if (m.id.idiag_sport != htons(port) || m.idiag_state != TCP_LISTEN || !leads_here(m.idiag_family, m.id.idiag_src))
        return 0;
    return add_socket(sockets, m.idiag_inode, (uid_t)m.idiag_uid) ? 0 : -1;
}

static bool ask_family(int fd, int family, uint16_t port, struct sockets *sockets)
{
    union {
        struct nlmsghdr head;
        char bytes[16384];
    } reply;
    int said = send_question(fd, family, port) ? 0 : -1;
    while (said == 0) {
        ssize_t n = recv(fd, &reply, sizeof(reply), 0);
        unsigned left = n > 0 ? (unsigned)n : 0;
        if (n <= 0)
            return false;
        for (const struct nlmsghdr *head = &reply.head; said == 0 && NLMSG_OK(head, left);
             head = NLMSG_NEXT(head, left))
            said = read_answer(head, port, sockets);
    }
    return said > 0;
}

/* Those who listen alone: a machine has few of these, and many connections. */
static bool ask_kernel(uint16_t port, struct sockets *sockets)
{
    struct timeval patience = {.tv_usec = 500000};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return false;
    bool ok = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0 &&
              ask_family(fd, AF_INET, port, sockets) && ask_family(fd, AF_INET6, port, sockets);
    close(fd);
    return ok;
}

/* ---- reading /proc ------------------------------------------------------------------------------------------------
 */

/* As the kernel prints them: four bytes at a time, in the order of this machine. */
static int parse_address(const char *text, uint32_t words[4])
{
    char word[9] = "";
    size_t n = strlen(text) / 8;
    for (size_t i = 0; i < n && i < 4; i++) {
        memcpy(word, text + 8 * i, 8);
        words[i] = (uint32_t)strtoul(word, NULL, 16);
    }
    return n == 1 ? AF_INET : AF_INET6;
}

/* The fields of a line, of which these count. */
enum { LOCAL = 1, STATE = 3, USER = 7, INODE = 9, FIELDS };

static bool split_line(char *line, char *fields[FIELDS])
{
    char *rest = NULL;
    for (size_t i = 0; i < FIELDS; i++)
        if (!(fields[i] = strtok_r(i == 0 ? line : NULL, " \n", &rest)))
            return false;
    return true;
}

static bool is_listener(char *local, const char *state, uint16_t port)
{
    uint32_t words[4] = {0};
    char *colon = strchr(local, ':');
    if (!colon || strtoul(colon + 1, NULL, 16) != port || strtoul(state, NULL, 16) != TCP_LISTEN)
        return false;
    *colon = '\0';
    return leads_here(parse_address(local, words), words);
}

/* False when the file is not to be read, or when there are more than fit. */
static bool read_sockets(const char *path, uint16_t port, struct sockets *sockets)
{
    char line[512], *fields[FIELDS];
    bool ok = true;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (ok && fgets(line, sizeof(line), file))
        if (split_line(line, fields) && is_listener(fields[LOCAL], fields[STATE], port))
            ok = add_socket(sockets, strtoul(fields[INODE], NULL, 10), (uid_t)strtoul(fields[USER], NULL, 10));
    ok = ok && !ferror(file);
    fclose(file);
    return ok;
}

/* Where the kernel was built without sock_diag, or a sandbox denies it. */
static bool read_proc(uint16_t port, struct sockets *sockets)
{
    sockets->n = 0;
    return read_sockets("/proc/self/net/tcp", port, sockets) &&
           (access("/proc/self/net/tcp6", F_OK) != 0 || read_sockets("/proc/self/net/tcp6", port, sockets));
}

/* ---- whose they are ------------------------------------------------------------------------------------------------
 */

/* Finds which of them the process has open. False when that is not to be seen. */
static bool look_into(pid_t pid, struct sockets *sockets)
{
    static const char prefix[] = "socket:[";
    char path[320], link[64];
    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return family_born(pid) == 0; /* who is gone has nothing open */
    for (struct dirent *entry; (entry = readdir(dir));) {
        snprintf(path, sizeof(path), "/proc/%ld/fd/%s", (long)pid, entry->d_name);
        ssize_t len = readlink(path, link, sizeof(link) - 1);
        link[len > 0 ? len : 0] = '\0';
        if (strncmp(link, prefix, sizeof(prefix) - 1) != 0)
            continue;
        unsigned long inode = strtoul(link + sizeof(prefix) - 1, NULL, 10);
        for (size_t i = 0; i < sockets->n; i++)
            sockets->each[i].found = sockets->each[i].found || sockets->each[i].inode == inode;
    }
    closedir(dir);
    return true;
}

static size_t count_strangers(const struct sockets *sockets, bool all_seen)
{
    size_t n = 0;
    for (size_t i = 0; i < sockets->n; i++)
        n += !sockets->each[i].found && (all_seen || sockets->each[i].user != geteuid());
    return n;
}

/* The sockets are read first: who has had one since then is still there, or has handed it to a descendant. */
enum listener listener_at(uint16_t port, pid_t root)
{
    struct sockets sockets = {.n = 0};
    struct family all;
    bool all_seen = true;
    bool known = ask_kernel(port, &sockets) || read_proc(port, &sockets);
    if (!known)
        return LISTENER_UNKNOWN;
    if (sockets.n == 0)
        return LISTENER_NONE;
    if (root <= 0 || !family_read(&all))
        return LISTENER_UNKNOWN;
    family_mark(&all, root);
    for (size_t i = 0; i < all.n; i++)
        if (all.list[i].in)
            all_seen = look_into(all.list[i].pid, &sockets) && all_seen;
    family_free(&all);
    return count_strangers(&sockets, all_seen) > 0 ? LISTENER_STRANGER : LISTENER_OURS;
}
