#include "engine.h"

#include <math.h>

#include "cpu.h"
#include "dispatch.h"
#include "error.h"
#include "rope.h"

static const double LOG2_E = 1.4426950408889634;

/* What the options leave open is asked once: what affinity and the quota allow may change between
 * two questions. */
typedef struct {
    int n_threads, batch_rows;
} sizes;

static sizes sizes_of(const ce_options *o) {
    return (sizes){.n_threads = o->n_threads > 0 ? o->n_threads : ce_default_threads(),
                   .batch_rows = o->batch_rows > 0 ? o->batch_rows : CE_DEFAULT_BATCH_ROWS};
}

static uint64_t measure_scratch(const ce_hparams *hp, sizes n, const ce_kernels *k) {
    ce_scratch unused;
    ce_arena measure = {0};
    ce_scratch_lay_out(&unused, &measure, hp, n.batch_rows, n.n_threads, k);
    return measure.used;
}

uint64_t ce_engine_scratch_bytes(const ce_hparams *hparams, const ce_options *options) {
    ce_kernels k = {0};
    return ce_check_hparams(hparams, NULL) == CE_OK &&
                   ce_select_kernels(options->tier, &k, NULL) == CE_OK
               ? measure_scratch(hparams, sizes_of(options), &k)
               : 0;
}

static ce_status check_options(const ce_options *o, ce_error *err) {
    if (o->n_threads < 0 || o->n_threads > CE_MAX_THREADS)
        return ce_fail(err, CE_ERR_ARGUMENT, "threads: %d; choose 1 ... %d, or 0 for all",
                       o->n_threads, CE_MAX_THREADS);
    if (o->batch_rows < 0 || o->batch_rows > CE_MAX_BATCH_ROWS)
        return ce_fail(err, CE_ERR_ARGUMENT, "batch_rows: %d; choose 1 ... %d, or 0 for %d",
                       o->batch_rows, CE_MAX_BATCH_ROWS, CE_DEFAULT_BATCH_ROWS);
    return CE_OK;
}

static ce_status allocate(ce_engine *engine, sizes n, ce_error *err) {
    const ce_hparams *hp = &engine->model.hp;
    const uint64_t n_bytes = measure_scratch(hp, n, &engine->kernels);
    engine->scratch_block = ce_alloc(n_bytes);
    engine->inv_freq = ce_alloc((uint64_t)hp->head_dim / 2 * sizeof *engine->inv_freq);
    if (engine->scratch_block == NULL || engine->inv_freq == NULL)
        return ce_fail(err, CE_ERR_MEMORY, "out of memory: %llu MB of scratch are needed",
                       (unsigned long long)(n_bytes / 1000000));
    ce_arena arena = {.base = engine->scratch_block};
    ce_scratch_lay_out(&engine->scratch, &arena, hp, n.batch_rows, n.n_threads, &engine->kernels);
    engine->batch_rows = n.batch_rows;
    ce_rope_frequencies(engine->inv_freq, hp->head_dim, hp->rope_theta);
    engine->attention_scale = (float)(LOG2_E / sqrt((double)hp->head_dim));
    return CE_OK;
}

ce_status ce_engine_create(const ce_hparams *hparams, const ce_tensor *tensors, size_t n_tensors,
                           const ce_options *options, ce_engine **out, ce_error *err) {
    ce_status status = check_options(options, err);
    if (status != CE_OK)
        return status;
    ce_engine *engine = ce_alloc_zeroed(sizeof *engine);
    if (engine == NULL)
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for the engine");
    const sizes n = sizes_of(options);
    status = ce_select_kernels(options->tier, &engine->kernels, err);
    if (status == CE_OK)
        status = ce_model_bind(&engine->model, hparams, tensors, n_tensors, &engine->kernels, err);
    if (status == CE_OK)
        status = allocate(engine, n, err);
    if (status == CE_OK)
        status = ce_pool_create(n.n_threads, &engine->pool, err);
    if (status != CE_OK) {
        ce_engine_free(engine);
        return status;
    }
    *out = engine;
    return ce_ok(err);
}

void ce_engine_free(ce_engine *engine) {
    if (engine == NULL)
        return;
    ce_pool_free(engine->pool);
    ce_model_unbind(&engine->model);
    ce_free(engine->scratch_block);
    ce_free(engine->inv_freq);
    ce_free(engine);
}

int32_t ce_engine_threads(const ce_engine *engine) { return ce_pool_threads(engine->pool); }

int32_t ce_engine_batch_rows(const ce_engine *engine) { return engine->batch_rows; }

const char *ce_engine_tier(const ce_engine *engine) { return engine->kernels.tier; }

static bool has_kernel(const ce_engine *engine, int32_t type, int32_t phase) {
    return type >= 0 && type < CE_MAX_TYPE && phase >= 0 && phase < CE_N_PHASES &&
           engine->kernels.matmul[phase][type].run != NULL;
}

const char *ce_engine_kernel_name(const ce_engine *engine, int32_t type, int32_t phase) {
    return has_kernel(engine, type, phase) ? engine->kernels.matmul[phase][type].name : NULL;
}

uint64_t ce_engine_kernel_calls(const ce_engine *engine, int32_t type, int32_t phase) {
    return has_kernel(engine, type, phase) ? engine->kernel_calls[phase][type] : 0;
}

ce_status ce_engine_set_tap(ce_engine *engine, ce_tap_fn fn, void *user, ce_error *err) {
    const ce_status status = ce_pool_lock(engine->pool, NULL, err);
    if (status != CE_OK)
        return status;
    engine->tap = fn;
    engine->tap_user = user;
    ce_pool_unlock(engine->pool);
    return ce_ok(err);
}
