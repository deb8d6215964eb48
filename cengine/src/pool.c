/* How a loop runs. The state word holds the loop's number, whether it is open, and how many
 * workers are inside. A worker enters an open loop by raising the count, and leaves it by
 * lowering it. When the caller finds no chunk left it closes the loop and waits for those
 * inside only: a worker that another process keeps off its core is never waited for.
 *
 * A worker ends its turn of its own accord after some time, between two chunks: on a core that
 * another process wants as well it would be stopped within one, and the loop would wait for it.
 *
 * Both sides spin before they sleep. A decode step has some five loops a layer, a few dozen
 * microseconds apart, and a futex wake-up costs about as much as such a loop. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cpu.h"
#include "error.h"
#include "memory.h"

#define OPEN       ((uint64_t)1 << 31)
#define COUNT_MASK (OPEN - 1)
#define ONE_LOOP   ((uint64_t)1 << 32)

/* A turn is shorter than any scheduler's time slice, and long beside a yield to nobody. */
enum { SPIN_NANOSECONDS = 50000, SPINS_PER_LOOK = 64, TURN_NANOSECONDS = 1000000 };

#define NEVER INT64_MAX

typedef struct {
    ce_pool *pool;
    int index; /* 1 ... n_threads - 1 */
} worker;

/* The chunks [begin, end) that a thread is to run, in one word: end above begin. */
typedef struct {
    _Alignas(64) _Atomic uint64_t range;
} share;

struct ce_pool {
    _Alignas(64) _Atomic uint64_t state;
    /* The loop that is open; written only while it is closed and nobody is inside. */
    _Alignas(64) ce_chunk_fn *fn;
    void *ctx;
    const ce_cancel *cancel;

    pthread_mutex_t use_lock; /* of in_use and user */
    pthread_cond_t next;      /* nobody uses the pool, or a flag was raised that ends the wait */
    bool in_use;              /* by the thread `user`, see ce_pool_lock */
    pthread_t user;
    pthread_mutex_t sleep_lock;
    pthread_cond_t work, done;
    atomic_int n_sleeping;      /* workers in `work` */
    atomic_int caller_sleeping; /* the caller in `done` */
    atomic_bool quit;
    bool spin;
    pid_t pid;
    int n_threads;
    int n_started;
    pthread_t *threads; /* [n_threads - 1] */
    worker *workers;    /* [n_threads - 1] */
    share *shares;      /* [n_threads] */
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool ce_cancelled(const ce_cancel *cancel) {
    for (int i = 0; cancel != NULL && i < cancel->n; i++)
        if (atomic_load_explicit(cancel->flags[i], memory_order_relaxed))
            return true;
    return false;
}

/* ---- Shares. Each thread goes through chunks that lie side by side, as memory likes to be read,
 * and then takes half of what another one has left. ---- */

static uint64_t range_of(uint32_t begin, uint32_t end) { return (uint64_t)end << 32 | begin; }
static uint32_t begin_of(uint64_t range) { return (uint32_t)range; }
static uint32_t end_of(uint64_t range) { return (uint32_t)(range >> 32); }

static void share_out(ce_pool *pool, uint32_t n_chunks) {
    const uint64_t n_threads = (uint64_t)pool->n_threads;
    for (uint64_t i = 0; i < n_threads; i++)
        atomic_store(&pool->shares[i].range, range_of((uint32_t)(n_chunks * i / n_threads),
                                                      (uint32_t)(n_chunks * (i + 1) / n_threads)));
}

/* The first chunk of the thread's own share. */
static bool take_own(share *own, uint32_t *chunk) {
    uint64_t range = atomic_load(&own->range);
    while (begin_of(range) < end_of(range)) {
        *chunk = begin_of(range);
        if (atomic_compare_exchange_weak(&own->range, &range,
                                         range_of(begin_of(range) + 1, end_of(range))))
            return true;
    }
    return false;
}

/* The latter half of another's share, its first chunk to be run and the rest the thread's own. */
static bool take_half(share *own, share *from, uint32_t *chunk) {
    uint64_t range = atomic_load(&from->range);
    while (begin_of(range) < end_of(range)) {
        const uint32_t middle = begin_of(range) + (end_of(range) - begin_of(range)) / 2;
        if (atomic_compare_exchange_weak(&from->range, &range, range_of(begin_of(range), middle))) {
            *chunk = middle;
            atomic_store(&own->range, range_of(middle + 1, end_of(range)));
            return true;
        }
    }
    return false;
}

/* False if none is left, but for those that another thread is about to run. */
static bool take_chunk(ce_pool *pool, int thread, uint32_t *chunk) {
    share *own = &pool->shares[thread];
    if (take_own(own, chunk))
        return true;
    for (int i = 1; i < pool->n_threads; i++)
        if (take_half(own, &pool->shares[(thread + i) % pool->n_threads], chunk))
            return true;
    return false;
}

/* Until no chunk is left: true; or until a worker's turn ends. */
static bool run_chunks(ce_pool *pool, int thread, int64_t turn_end) {
    uint32_t chunk;
    while (take_chunk(pool, thread, &chunk) && !ce_cancelled(pool->cancel)) {
        pool->fn(pool->ctx, chunk, thread);
        if (turn_end != NEVER && ce_nanoseconds() > turn_end)
            return false;
    }
    return true;
}

/* ---- Waiting: each side names its condition, spins on it, then sleeps on it ---- */

static bool loop_is_open(ce_pool *pool, uint64_t *last_loop) {
    uint64_t state = atomic_load(&pool->state);
    return (state & OPEN) != 0 && state / ONE_LOOP != *last_loop;
}

static bool worker_may_go(ce_pool *pool, uint64_t *last_loop) {
    return loop_is_open(pool, last_loop) || atomic_load(&pool->quit);
}

static bool nobody_inside(ce_pool *pool, uint64_t *unused) {
    (void)unused;
    return (atomic_load(&pool->state) & COUNT_MASK) == 0;
}

static void wait_until(ce_pool *pool, bool (*ready)(ce_pool *, uint64_t *), uint64_t *arg,
                       pthread_cond_t *cond, atomic_int *sleeping) {
    if (pool->spin) {
        int64_t end = ce_nanoseconds() + SPIN_NANOSECONDS;
        do {
            for (int i = 0; i < SPINS_PER_LOOK; i++) {
                if (ready(pool, arg))
                    return;
                relax();
            }
        } while (ce_nanoseconds() < end);
    }
    pthread_mutex_lock(&pool->sleep_lock);
    /* Announced before the condition is read again, and the waker changes the condition before
     * it reads the announcement: one of the two sees the other. */
    atomic_fetch_add(sleeping, 1);
    while (!ready(pool, arg))
        pthread_cond_wait(cond, &pool->sleep_lock);
    atomic_fetch_sub(sleeping, 1);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void wake(ce_pool *pool, pthread_cond_t *cond, atomic_int *sleeping) {
    if (atomic_load(sleeping) > 0) {
        pthread_mutex_lock(&pool->sleep_lock);
        pthread_cond_broadcast(cond);
        pthread_mutex_unlock(&pool->sleep_lock);
    }
}

/* ---- Workers ---- */

static bool enter(ce_pool *pool, uint64_t *last_loop) {
    uint64_t state = atomic_load(&pool->state);
    while ((state & OPEN) != 0 && state / ONE_LOOP != *last_loop)
        if (atomic_compare_exchange_weak(&pool->state, &state, state + 1)) {
            *last_loop = state / ONE_LOOP;
            return true;
        }
    return false;
}

static void *worker_main(void *arg) {
    worker *self = arg;
    ce_pool *pool = self->pool;
    uint64_t last_loop = 0;
    int64_t turn_end = 0;
    for (;;) {
        wait_until(pool, worker_may_go, &last_loop, &pool->work, &pool->n_sleeping);
        if (atomic_load(&pool->quit))
            return NULL;
        if (!enter(pool, &last_loop))
            continue;
        const bool loop_done = run_chunks(pool, self->index, turn_end);
        if ((atomic_fetch_sub(&pool->state, 1) & COUNT_MASK) == 1)
            wake(pool, &pool->done, &pool->caller_sleeping);
        if (!loop_done) {
            last_loop = 0; /* to come back to this loop, if it is still open */
            sched_yield();
            turn_end = ce_nanoseconds() + TURN_NANOSECONDS;
        }
    }
}

void ce_pool_run(ce_pool *pool, int64_t n_chunks, ce_chunk_fn *fn, void *ctx,
                 const ce_cancel *cancel) {
    pool->fn = fn;
    pool->ctx = ctx;
    pool->cancel = cancel;
    share_out(pool, (uint32_t)n_chunks);
    if (n_chunks <= 1 || pool->n_threads == 1) {
        run_chunks(pool, 0, NEVER);
        return;
    }
    uint64_t loop = atomic_load(&pool->state) / ONE_LOOP + 1;
    if (loop > UINT32_MAX)
        loop = 1; /* 0 is what a worker that has seen no loop holds */
    atomic_store(&pool->state, loop * ONE_LOOP | OPEN);
    wake(pool, &pool->work, &pool->n_sleeping);
    run_chunks(pool, 0, NEVER);
    atomic_fetch_and(&pool->state, ~OPEN);
    wait_until(pool, nobody_inside, NULL, &pool->done, &pool->caller_sleeping);
    /* What a worker took just before the loop was closed, and left when its turn ended. */
    run_chunks(pool, 0, NEVER);
}

/* ---- Life ---- */

/* They leave signals to the program, which may wait for them in a thread of its own, but for those
 * that a thread brings about itself. Returns an errno. */
static int start_workers(ce_pool *pool) {
    static const int own[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int code = 0;
    for (int i = 0; i < pool->n_threads - 1 && code == 0; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i + 1};
        code = pthread_create(&pool->threads[i], NULL, worker_main, &pool->workers[i]);
        pool->n_started += code == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

ce_status ce_pool_create(int n_threads, ce_pool **out, ce_error *err) {
    ce_pool *pool = ce_alloc_zeroed(sizeof *pool);
    if (pool == NULL)
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for the thread pool");
    pool->n_threads = n_threads;
    pool->pid = getpid();
    /* More threads than cores: a spinning thread would only keep a working one waiting. */
    pool->spin = n_threads <= ce_default_threads();
    pthread_mutex_init(&pool->use_lock, NULL);
    pthread_cond_init(&pool->next, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    uint64_t n_workers = (uint64_t)n_threads - 1;
    pool->threads = ce_alloc(n_workers * sizeof *pool->threads);
    pool->workers = ce_alloc(n_workers * sizeof *pool->workers);
    pool->shares = ce_alloc_zeroed((uint64_t)n_threads * sizeof *pool->shares);
    if (pool->threads == NULL || pool->workers == NULL || pool->shares == NULL) {
        ce_pool_free(pool);
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for %d threads", n_threads);
    }
    const int code = start_workers(pool);
    if (code != 0) {
        const int thread = pool->n_started + 2;
        ce_pool_free(pool);
        return ce_fail(err, CE_ERR_THREADS, "cannot start thread %d of %d: %s", thread, n_threads,
                       strerror(code));
    }
    *out = pool;
    return CE_OK;
}

void ce_pool_free(ce_pool *pool) {
    if (pool == NULL)
        return;
    /* In a forked child there is nobody to join, and the locks are in an unknown state. */
    if (pool->pid == getpid()) {
        pthread_mutex_lock(&pool->sleep_lock);
        atomic_store(&pool->quit, true);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->sleep_lock);
        for (int i = 0; i < pool->n_started; i++)
            pthread_join(pool->threads[i], NULL);
        pthread_cond_destroy(&pool->work);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->next);
        pthread_mutex_destroy(&pool->sleep_lock);
        pthread_mutex_destroy(&pool->use_lock);
    }
    ce_free(pool->threads);
    ce_free(pool->workers);
    ce_free(pool->shares);
    ce_free(pool);
}

int ce_pool_threads(const ce_pool *pool) { return pool->n_threads; }

/* ---- Use ---- */

ce_status ce_pool_lock(ce_pool *pool, const ce_cancel *cancel, ce_error *err) {
    if (pool->pid != getpid())
        return ce_fail(err, CE_ERR_FORKED,
                       "the model was loaded before this process was forked; its threads stayed in "
                       "the parent: load the model in the child");
    pthread_mutex_lock(&pool->use_lock);
    const bool is_mine = pool->in_use && pthread_equal(pool->user, pthread_self());
    while (pool->in_use && !is_mine && !ce_cancelled(cancel))
        pthread_cond_wait(&pool->next, &pool->use_lock);
    const bool was_free = !pool->in_use;
    if (was_free) {
        pool->in_use = true;
        pool->user = pthread_self();
    }
    pthread_mutex_unlock(&pool->use_lock);
    if (is_mine)
        return ce_fail(err, CE_ERR_BUSY, "the engine cannot be used from inside a tap");
    return was_free ? CE_OK : ce_fail(err, CE_ERR_CANCELLED, "the evaluation was cancelled");
}

void ce_pool_unlock(ce_pool *pool) {
    pthread_mutex_lock(&pool->use_lock);
    pool->in_use = false;
    pthread_cond_signal(&pool->next);
    pthread_mutex_unlock(&pool->use_lock);
}

void ce_pool_end_waits(ce_pool *pool) {
    if (pool->pid != getpid())
        return;
    pthread_mutex_lock(&pool->use_lock);
    pthread_cond_broadcast(&pool->next);
    pthread_mutex_unlock(&pool->use_lock);
}
