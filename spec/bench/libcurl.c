/* What libcurl alone takes, on epoll and with nothing around it: libcurl URL POST|HEAD REQUESTS. CALLERS transfers at a
 * time; POST on kept connections with a body of the length of the bench's, HEAD on a new one each, as the probe is.
 * Prints the microseconds of CPU of each request. */
#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum { CALLERS = 32, MAX_READY = 64 };

static const char body[] = "{\"model\":\"down\",\"messages\":[{\"content\":\"A question that somebody might ask.\","
                           "\"role\":\"user\"}]}";
static int poll_fd;
static long timeout_ms = -1;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "libcurl: %s\n", what);
    exit(1);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known)
{
    struct epoll_event want = {.data.fd = fd};
    CURLM *multi = user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(poll_fd, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    want.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    must(epoll_ctl(poll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &want) == 0, "epoll_ctl");
    curl_multi_assign(multi, fd, &poll_fd);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *user)
{
    (void)multi, (void)user;
    timeout_ms = ms;
    return 0;
}

static size_t drop(char *bytes, size_t size, size_t n, void *user)
{
    (void)bytes, (void)user;
    return size * n;
}

static CURL *new_easy(const char *url, bool post, struct curl_slist *fields)
{
    CURL *easy = curl_easy_init();
    must(easy != NULL, "out of memory");
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
    if (post) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)sizeof(body) - 1);
    } else {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    }
    return easy;
}

/* Each handle that is through starts again. */
static long reap(CURLM *multi, long started, long total)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(multi, &left))) {
        CURL *easy = message->easy_handle;
        must(message->data.result == CURLE_OK, curl_easy_strerror(message->data.result));
        curl_multi_remove_handle(multi, easy);
        if (started++ < total)
            curl_multi_add_handle(multi, easy);
        else
            curl_easy_cleanup(easy);
    }
    return started;
}

static double cpu_us(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

int main(int argc, char **argv)
{
    must(argc == 4, "expected URL POST|HEAD REQUESTS");
    long total = strtol(argv[3], NULL, 10), started = CALLERS;
    bool post = strcmp(argv[2], "POST") == 0;
    struct epoll_event ready[MAX_READY];
    int running = 1;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURLM *multi = curl_multi_init();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    must(multi && poll_fd >= 0 && total > CALLERS, "cannot begin");
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, multi);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    struct curl_slist *fields = curl_slist_append(NULL, "Authorization: Bearer tok-bench");
    if (post)
        fields = curl_slist_append(fields, "Content-Type: application/json");
    double before = cpu_us();
    for (int i = 0; i < CALLERS; i++)
        must(curl_multi_add_handle(multi, new_easy(argv[1], post, fields)) == CURLM_OK, "out of memory");
    while (running > 0) {
        if (timeout_ms == 0) {
            timeout_ms = -1;
            curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
            started = reap(multi, started, total);
            running = timeout_ms == 0 ? 1 : running;
            continue;
        }
        int n = epoll_wait(poll_fd, ready, MAX_READY, timeout_ms > 0 ? (int)timeout_ms : 1000);
        must(n >= 0, "epoll_wait");
        for (int i = 0; i < n; i++) {
            int events = (ready[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                         (ready[i].events & ~(unsigned)EPOLLOUT ? CURL_CSELECT_IN : 0);
            curl_multi_socket_action(multi, ready[i].data.fd, events, &running);
        }
        if (n == 0)
            curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
        started = reap(multi, started, total);
        running = timeout_ms == 0 ? 1 : running;
    }
    printf("%.2f\n", (cpu_us() - before) / (double)total);
    curl_slist_free_all(fields);
    curl_multi_cleanup(multi);
    return 0;
}
