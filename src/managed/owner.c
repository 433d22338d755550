#include "managed/owner.h"

#include "managed/drive.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <utlist.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct owner *the_owner; /* NULL: there is none, or it is about to end */
static bool alive;              /* a thread has not ended yet */

static void on_wake(uv_async_t *async)
{
    (void)async; /* the turn that it brings about is what was wanted */
}

static void on_closed(uv_handle_t *handle)
{
    (void)handle;
}

static void free_owner(struct owner *owner)
{
    uv_close((uv_handle_t *)&owner->async, on_closed);
    loop_free(owner->loop);
    free(owner);
}

static void take_incoming(struct owner *owner)
{
    struct deputy_managed *list, *m, *next;
    pthread_mutex_lock(&lock);
    list = owner->incoming;
    owner->incoming = NULL;
    pthread_mutex_unlock(&lock);
    DL_FOREACH_SAFE (list, m, next) {
        DL_DELETE(list, m);
        DL_APPEND(owner->list, m);
        drive_begin(m);
    }
}

/* What comes later finds no owner and makes one. */
static bool is_over(struct owner *owner)
{
    pthread_mutex_lock(&lock);
    bool over = !owner->list && !owner->incoming && owner->handles == 0;
    if (over)
        the_owner = NULL;
    pthread_mutex_unlock(&lock);
    return over;
}

static void *own(void *user)
{
    struct owner *owner = user;
    struct deputy_managed *m, *next;
    pthread_setname_np(pthread_self(), "deputy-managed");
    do {
        take_incoming(owner);
        DL_FOREACH_SAFE (owner->list, m, next)
            if (!drive_step(m)) {
                DL_DELETE(owner->list, m);
                drive_end(m);
            }
        if (owner->list || owner->handles > 0)
            uv_run(loop_uv(owner->loop), UV_RUN_ONCE);
    } while (!is_over(owner));
    free_owner(owner);
    pthread_mutex_lock(&lock);
    alive = the_owner != NULL;
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* A host may unload the library that this thread runs in. */
static void stay_loaded(void)
{
    Dl_info library;
    if (dladdr((void *)&the_owner, &library) && library.dli_fname)
        (void)dlopen(library.dli_fname, RTLD_NOLOAD | RTLD_NODELETE | RTLD_LAZY);
}

static struct owner *make_owner(int *code)
{
    struct owner *owner = calloc(1, sizeof(*owner));
    *code = owner ? loop_new(NULL, &owner->loop) : DEPUTY_ENOMEM;
    if (*code == DEPUTY_OK && uv_async_init(loop_uv(owner->loop), &owner->async, on_wake) != 0) {
        loop_free(owner->loop);
        *code = DEPUTY_EIO;
    }
    if (*code == DEPUTY_OK)
        return owner;
    free(owner);
    return NULL;
}

/* Signals are for the host's threads. */
static int start_thread(struct owner *owner)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, own, owner);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed ? DEPUTY_EIO : DEPUTY_OK;
}

int owner_adopt(struct deputy_managed *m)
{
    int code = DEPUTY_OK;
    pthread_mutex_lock(&lock);
    struct owner *owner = the_owner ? the_owner : make_owner(&code);
    if (owner) {
        m->owner = owner;
        DL_APPEND(owner->incoming, m);
        if (!the_owner) {
            stay_loaded();
            code = start_thread(owner);
            if (code == DEPUTY_OK) {
                the_owner = owner;
                alive = true;
            } else {
                free_owner(owner);
            }
        } else {
            owner_wake(owner);
        }
    }
    pthread_mutex_unlock(&lock);
    return code;
}

void owner_wake(struct owner *owner)
{
    uv_async_send(&owner->async);
}

bool owner_is_there(void)
{
    pthread_mutex_lock(&lock);
    bool there = alive;
    pthread_mutex_unlock(&lock);
    return there;
}
