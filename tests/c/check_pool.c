/* The thread pool: every chunk exactly once, in every mix of loop sizes and threads; cancel;
 * loops from several threads behind the lock. Run it under ThreadSanitizer too (make tsan). */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"

static int n_failures;

static void expect(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "FAILED: %s\n", what);
        n_failures++;
    }
}

enum { MAX_CHUNKS = 500 };

typedef struct {
    int seen[MAX_CHUNKS]; /* plain ints: a chunk that runs twice is a race that TSan reports */
    atomic_int n_run;
    atomic_int *stop_at_3;
    int n_threads;
    atomic_int bad_thread;
} counts;

static void count_chunk(void *ctx, int64_t chunk, int thread) {
    counts *c = ctx;
    c->seen[chunk]++;
    if (thread < 0 || thread >= c->n_threads)
        atomic_store(&c->bad_thread, 1);
    if (atomic_fetch_add(&c->n_run, 1) == 2 && c->stop_at_3 != NULL)
        atomic_store(c->stop_at_3, 1);
}

static ce_pool *create(int n_threads) {
    ce_pool *pool = NULL;
    ce_error err;
    if (ce_pool_create(n_threads, &pool, &err) != CE_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return pool;
}

static void check_every_chunk_once(int n_threads) {
    ce_pool *pool = create(n_threads);
    expect(ce_pool_threads(pool) == n_threads, "thread count");
    for (int round = 0; round < 400; round++) {
        int n_chunks = round * 7 % MAX_CHUNKS;
        counts c = {.n_threads = n_threads};
        if (round % 50 == 0)
            usleep(2000); /* long enough for the workers to fall asleep */
        ce_pool_lock(pool, NULL, NULL);
        ce_pool_run(pool, n_chunks, count_chunk, &c, NULL);
        ce_pool_unlock(pool);
        int once = 1;
        for (int i = 0; i < MAX_CHUNKS; i++)
            once &= c.seen[i] == (i < n_chunks);
        expect(once, "every chunk runs once");
        expect(!c.bad_thread, "thread index within bounds");
    }
    ce_pool_free(pool);
}

static void check_cancel(int n_threads) {
    ce_pool *pool = create(n_threads);
    atomic_int flag = 0;
    const atomic_int *flags[] = {&flag};
    ce_cancel cancel = {.flags = flags, .n = 1};
    counts c = {.n_threads = n_threads, .stop_at_3 = &flag};
    ce_pool_lock(pool, NULL, NULL);
    ce_pool_run(pool, MAX_CHUNKS, count_chunk, &c, &cancel);
    ce_pool_unlock(pool);
    expect(c.n_run >= 3 && c.n_run < 3 + n_threads, "a cancel skips the remaining chunks");
    expect(ce_cancelled(&cancel) && !ce_cancelled(NULL), "the flag is seen");
    ce_pool_free(pool);
}

static void *run_loops(void *arg) {
    ce_pool *pool = arg;
    for (int round = 0; round < 100; round++) {
        counts c = {.n_threads = ce_pool_threads(pool)};
        ce_pool_lock(pool, NULL, NULL);
        ce_pool_run(pool, 20, count_chunk, &c, NULL);
        ce_pool_unlock(pool);
        expect(c.n_run == 20, "loops of several callers do not mix");
    }
    return NULL;
}

static void check_callers(int n_threads) {
    enum { N_CALLERS = 4 };
    pthread_t callers[N_CALLERS];
    ce_pool *pool = create(n_threads);
    for (int i = 0; i < N_CALLERS; i++)
        pthread_create(&callers[i], NULL, run_loops, pool);
    for (int i = 0; i < N_CALLERS; i++)
        pthread_join(callers[i], NULL);
    ce_pool_free(pool);
}

/* A worker's first turn ends with its first chunk: what it has left is to be run nonetheless, also
 * if it had taken it from another thread when the caller saw none. */
static void check_first_turns(int n_threads) {
    for (int round = 0; round < 500; round++) {
        ce_pool *pool = create(n_threads);
        const int n_chunks = 2 + round % (4 * n_threads);
        for (int loop = 0; loop < 4; loop++) {
            counts c = {.n_threads = n_threads};
            ce_pool_lock(pool, NULL, NULL);
            ce_pool_run(pool, n_chunks, count_chunk, &c, NULL);
            ce_pool_unlock(pool);
            expect(c.n_run == n_chunks, "a chunk is not left behind when a turn ends");
        }
        ce_pool_free(pool);
    }
}

/* ---- Waiting for the lock ---- */

typedef struct {
    ce_pool *pool;
    const ce_cancel *cancel;
    ce_status status;
} waiter;

static void *wait_for_lock(void *arg) {
    waiter *w = arg;
    w->status = ce_pool_lock(w->pool, w->cancel, NULL);
    if (w->status == CE_OK)
        ce_pool_unlock(w->pool);
    return NULL;
}

/* One who is cancelled goes, the others get their turn. */
static void check_cancelled_wait(void) {
    ce_pool *pool = create(2);
    atomic_int flag = 0;
    const atomic_int *flags[] = {&flag};
    const ce_cancel cancel = {.flags = flags, .n = 1};
    for (int round = 0; round < 100; round++) {
        waiter waiters[3] = {{.pool = pool}, {.pool = pool, .cancel = &cancel}, {.pool = pool}};
        pthread_t threads[3];
        atomic_store(&flag, 0);
        expect(ce_pool_lock(pool, NULL, NULL) == CE_OK, "the lock is free");
        for (int i = 0; i < 3; i++)
            pthread_create(&threads[i], NULL, wait_for_lock, &waiters[i]);
        if (round % 2 == 0)
            usleep(1000); /* long enough for them to wait */
        atomic_store(&flag, 1);
        ce_pool_end_waits(pool);
        pthread_join(threads[1], NULL);
        expect(waiters[1].status == CE_ERR_CANCELLED, "a wait is cancelled");
        expect(ce_pool_lock(pool, NULL, NULL) == CE_ERR_BUSY, "a thread does not wait for itself");
        ce_pool_unlock(pool);
        pthread_join(threads[0], NULL);
        pthread_join(threads[2], NULL);
        expect(waiters[0].status == CE_OK && waiters[2].status == CE_OK, "the others go on");
    }
    ce_pool_free(pool);
}

/* ---- Signals ---- */

static void look_at_signals(void *ctx, int64_t chunk, int thread) {
    (void)chunk;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    if (sigismember(&blocked, SIGTERM) != (thread != 0) || sigismember(&blocked, SIGBUS))
        atomic_store((atomic_int *)ctx, 1);
    usleep(10); /* for the other thread to have its share */
}

static void check_signals(void) {
    ce_pool *pool = create(2);
    atomic_int wrong = 0;
    ce_pool_lock(pool, NULL, NULL);
    ce_pool_run(pool, 1000, look_at_signals, &wrong, NULL);
    ce_pool_unlock(pool);
    expect(!wrong, "workers leave signals, but those of their own faults, to the program");
    ce_pool_free(pool);
}

int main(void) {
    static const int n_threads[] = {1, 2, 3, 8};
    for (size_t i = 0; i < sizeof n_threads / sizeof n_threads[0]; i++) {
        check_every_chunk_once(n_threads[i]);
        check_cancel(n_threads[i]);
        check_callers(n_threads[i]);
        check_first_turns(n_threads[i]);
    }
    check_cancelled_wait();
    check_signals();
    printf("pool: %s\n", n_failures == 0 ? "ok" : "FAILED");
    return n_failures != 0;
}
