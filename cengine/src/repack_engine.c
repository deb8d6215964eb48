#include "engine.h"
#include "error.h"
#include "repack.h"

int32_t ce_repack_version(void) { return CE_REPACK_VERSION; }

/* The embedding and the router; so is the embedding where it is the output as well. */
static bool is_read_by_rows(int role) { return role == CE_TOKEN_EMBD || role == CE_FFN_GATE_INP; }

int32_t ce_is_repackable(const ce_tensor *t) {
    return t->n_dims >= 2 && t->n_dims <= 4 && !is_read_by_rows(t->role) &&
           ce_can_repack(t->type, t->ne[1], t->ne[0]);
}

ce_status ce_repack_rows(int32_t type, const void *src, int64_t n_rows, int64_t n_cols, void *dst,
                         ce_error *err) {
    if (!ce_can_repack(type, n_rows, n_cols) || n_cols > INT32_MAX)
        return ce_fail(err, CE_ERR_ARGUMENT, "%lld x %lld elements of type %d cannot be repacked",
                       (long long)n_rows, (long long)n_cols, type);
    const ce_repack_layout *layout = ce_repack_layout_of(type);
    const uint64_t row_bytes = ce_row_bytes(type, n_cols);
    for (int64_t row = 0; row < n_rows; row += CE_REPACK_ROWS) {
        const uint64_t at = (uint64_t)row * row_bytes;
        ce_repack_group(layout, (uint8_t *)dst + at, (const uint8_t *)src + at, (size_t)row_bytes,
                        (int)n_cols);
    }
    return ce_ok(err);
}

/* ---- What an engine reads ---- */

/* The matrices of a tensor, one after another. */
typedef struct {
    ce_matrix *first;
    int n;
} mat_span;

static ce_status find_matrices(ce_engine *engine, const ce_tensor *t, mat_span *out,
                               ce_error *err) {
    ce_model *model = &engine->model;
    *out = (mat_span){NULL, 0};
    if (t->role < 0 || t->role >= CE_N_ROLES || t->layer < 0 || t->layer >= model->hp.n_layers)
        return ce_fail(err, CE_ERR_ARGUMENT, "there is no such tensor");
    const ce_weight *weight = ce_model_weight(model, t->role, t->layer);
    if (weight == NULL || weight->n_mats == 0 || is_read_by_rows(t->role) ||
        weight->mats == model->token_embd.mats)
        return ce_ok(err);
    if (t->expert < CE_ALL_EXPERTS || t->expert >= weight->n_mats)
        return ce_fail(err, CE_ERR_ARGUMENT, "there is no such expert");
    *out = t->expert == CE_ALL_EXPERTS ? (mat_span){weight->mats, weight->n_mats}
                                       : (mat_span){weight->mats + t->expert, 1};
    return ce_ok(err);
}

/* Whether it has not been, and the tier has kernels for it. */
static bool may_repack(const ce_engine *engine, const ce_matrix *m) {
    bool may =
        m->data != NULL && m->repacked == NULL && ce_can_repack(m->type, m->n_rows, m->n_cols);
    for (int phase = 0; may && phase < CE_N_PHASES; phase++)
        may = engine->kernels.repacked[phase][m->type].run != NULL;
    return may;
}

static uint64_t size_of(const ce_matrix *m) { return (uint64_t)m->n_rows * m->row_bytes; }

typedef struct {
    const ce_repack_layout *layout;
    const ce_matrix *from;
    uint8_t *to;
} repack_loop;

static void repack_chunk(void *ctx, int64_t group, int thread) {
    (void)thread;
    const repack_loop *loop = ctx;
    const uint64_t at = (uint64_t)group * CE_REPACK_ROWS * loop->from->row_bytes;
    ce_repack_group(loop->layout, loop->to + at, loop->from->data + at,
                    (size_t)loop->from->row_bytes, loop->from->n_cols);
}

static ce_status repack_matrix(ce_engine *engine, ce_matrix *m, ce_error *err) {
    m->own_copy = ce_alloc_large(size_of(m));
    if (m->own_copy == NULL)
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for %llu MB of repacked weights",
                       (unsigned long long)(size_of(m) / 1000000));
    repack_loop loop = {ce_repack_layout_of(m->type), m, m->own_copy};
    ce_pool_run(engine->pool, m->n_rows / CE_REPACK_ROWS, repack_chunk, &loop, NULL);
    m->repacked = m->own_copy;
    return CE_OK;
}

ce_status ce_engine_repack(ce_engine *engine, const ce_tensor *t, uint64_t *n_bytes,
                           ce_error *err) {
    *n_bytes = 0;
    mat_span mats;
    ce_status status = find_matrices(engine, t, &mats, err);
    if (status == CE_OK)
        status = ce_pool_lock(engine->pool, NULL, err);
    if (status != CE_OK)
        return status;
    for (int i = 0; i < mats.n && status == CE_OK; i++) {
        if (!may_repack(engine, &mats.first[i]))
            continue;
        status = repack_matrix(engine, &mats.first[i], err);
        if (status == CE_OK)
            *n_bytes += size_of(&mats.first[i]);
    }
    ce_pool_unlock(engine->pool);
    return status == CE_OK ? ce_ok(err) : status;
}

static ce_status check_repacked(const ce_tensor *t, mat_span mats, const void *repacked,
                                uint64_t size, ce_error *err) {
    uint64_t wanted = 0;
    for (int i = 0; i < mats.n; i++) {
        if (mats.first[i].type != t->type)
            return ce_fail(err, CE_ERR_ARGUMENT, "repacked weights of type %d, the model's are %d",
                           t->type, mats.first[i].type);
        wanted = ce_add(wanted, size_of(&mats.first[i]));
    }
    if (size != wanted)
        return ce_fail(err, CE_ERR_ARGUMENT, "repacked weights take %llu bytes, got %llu",
                       (unsigned long long)wanted, (unsigned long long)size);
    if (repacked == NULL || (uintptr_t)repacked % CE_REPACK_ALIGNMENT != 0)
        return ce_fail(err, CE_ERR_ARGUMENT, "repacked weights are not aligned to %d bytes",
                       (int)CE_REPACK_ALIGNMENT);
    return CE_OK;
}

ce_status ce_engine_use_repacked(ce_engine *engine, const ce_tensor *t, const void *repacked,
                                 uint64_t size, uint64_t *n_bytes, ce_error *err) {
    *n_bytes = 0;
    mat_span mats;
    ce_status status = find_matrices(engine, t, &mats, err);
    if (status != CE_OK || mats.n == 0)
        return status;
    status = check_repacked(t, mats, repacked, size, err);
    if (status == CE_OK)
        status = ce_pool_lock(engine->pool, NULL, err);
    if (status != CE_OK)
        return status;
    const uint8_t *next = repacked;
    for (int i = 0; i < mats.n; i++) {
        ce_matrix *m = &mats.first[i];
        if (may_repack(engine, m)) {
            m->repacked = next;
            *n_bytes += size_of(m);
        }
        next += size_of(m);
    }
    ce_pool_unlock(engine->pool);
    return ce_ok(err);
}
