/* The engine's threads: a parallel loop over chunks, of which each thread has a share to begin with
 * and takes from another's when it is done, so that a slow or busy core runs fewer of them. */
#ifndef CE_POOL_H
#define CE_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cengine.h"

typedef struct ce_pool ce_pool;

/* One chunk of a loop; `thread` is 0 ... n_threads - 1, the caller being 0. */
typedef void ce_chunk_fn(void *ctx, int64_t chunk, int thread);

/* Flags that any thread may raise to have a loop's remaining chunks skipped. */
typedef struct {
    const atomic_int *const *flags; /* [n] */
    int n;
} ce_cancel;

bool ce_cancelled(const ce_cancel *cancel);

/* n_threads - 1 threads are started; the caller of ce_pool_run is the other one. */
ce_status ce_pool_create(int n_threads, ce_pool **out, ce_error *err);
void ce_pool_free(ce_pool *pool);
int ce_pool_threads(const ce_pool *pool);

/* Exclusive use of the pool, from any thread. CE_ERR_CANCELLED if `cancel` (may be NULL) is raised
 * while another thread has it; CE_ERR_BUSY if this one has it; CE_ERR_FORKED in a process that was
 * forked after the pool was created: its threads stayed behind in the parent. */
ce_status ce_pool_lock(ce_pool *pool, const ce_cancel *cancel, ce_error *err);
void ce_pool_unlock(ce_pool *pool);
/* Those who wait for the lock look at their flags; for who has raised one. */
void ce_pool_end_waits(ce_pool *pool);

/* fn(ctx, i, thread) for every i < n_chunks (less than 2^32), in no order; returns when all are
 * done, or, once `cancel` (may be NULL) is raised, when the chunks under way are. The lock must be
 * held. */
void ce_pool_run(ce_pool *pool, int64_t n_chunks, ce_chunk_fn *fn, void *ctx,
                 const ce_cancel *cancel);

#endif
