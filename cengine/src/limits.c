/* What the engine's threads reach when they do nothing but read, or nothing but multiply: the two
 * limits of a roofline (Williams, Waterman, Patterson 2009). */
#include "engine.h"

enum { READ_CHUNK = 1 << 20, MULTIPLY_CHUNK_ROUNDS = 1 << 14 };

typedef struct {
    const ce_kernels *kernels;
    const char *data;
    uint64_t n_bytes;
} limit_loop;

static void read_chunk(void *ctx, int64_t chunk, int thread) {
    (void)thread;
    const limit_loop *loop = ctx;
    const uint64_t at = (uint64_t)chunk * READ_CHUNK, left = loop->n_bytes - at;
    const uint64_t n = left < READ_CHUNK ? left : READ_CHUNK;
    loop->kernels->read(loop->data + at, n / CE_READ_BYTES * CE_READ_BYTES);
}

static void multiply_chunk(void *ctx, int64_t chunk, int thread) {
    (void)chunk;
    (void)thread;
    const limit_loop *loop = ctx;
    loop->kernels->peak.run(MULTIPLY_CHUNK_ROUNDS);
}

static ce_status run_alone(ce_engine *engine, int64_t n, ce_chunk_fn *fn, limit_loop *loop,
                           ce_error *err) {
    const ce_status status = ce_pool_lock(engine->pool, NULL, err);
    if (status != CE_OK)
        return status;
    ce_pool_run(engine->pool, n, fn, loop, NULL);
    ce_pool_unlock(engine->pool);
    return status;
}

ce_status ce_engine_read(ce_engine *engine, const void *data, uint64_t n_bytes, ce_error *err) {
    limit_loop loop = {.kernels = &engine->kernels, .data = data, .n_bytes = n_bytes};
    const int64_t n_chunks = (int64_t)(n_bytes / READ_CHUNK + (n_bytes % READ_CHUNK != 0));
    return run_alone(engine, n_chunks, read_chunk, &loop, err);
}

ce_status ce_engine_multiply(ce_engine *engine, int64_t n_products, int64_t *done, ce_error *err) {
    limit_loop loop = {.kernels = &engine->kernels};
    const int64_t per_chunk = engine->kernels.peak.n_products * MULTIPLY_CHUNK_ROUNDS;
    const int64_t n_chunks = n_products / per_chunk + 1;
    *done = n_chunks * per_chunk;
    return run_alone(engine, n_chunks, multiply_chunk, &loop, err);
}

const char *ce_engine_multiply_instruction(const ce_engine *engine) {
    return engine->kernels.peak.instruction;
}
