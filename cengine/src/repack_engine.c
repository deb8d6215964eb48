#include "engine.h"
#include "error.h"
#include "repack.h"

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

static bool can_repack(const ce_engine *engine, const ce_matrix *m) {
    bool can = m->data != NULL && m->repacked == NULL && ce_repack_layout_of(m->type) != NULL &&
               m->n_rows % CE_REPACK_ROWS == 0 && m->n_cols % CE_REPACK_COLS == 0;
    for (int phase = 0; can && phase < CE_N_PHASES; phase++)
        can = engine->kernels.repacked[phase][m->type].run != NULL;
    return can;
}

static ce_status repack_matrix(ce_engine *engine, ce_matrix *m, uint64_t *n_bytes, ce_error *err) {
    const uint64_t size = (uint64_t)m->n_rows * m->row_bytes;
    uint8_t *to = ce_alloc_large(size);
    if (to == NULL)
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for %llu MB of repacked weights",
                       (unsigned long long)(size / 1000000));
    repack_loop loop = {ce_repack_layout_of(m->type), m, to};
    ce_pool_run(engine->pool, m->n_rows / CE_REPACK_ROWS, repack_chunk, &loop, NULL);
    m->repacked = to;
    *n_bytes += size;
    return CE_OK;
}

/* The embedding, also where it is the output as well, and the router are read row by row. */
static bool is_read_by_rows(const ce_model *model, const ce_tensor *t, const ce_weight *weight) {
    return t->role == CE_FFN_GATE_INP || weight->mats == model->token_embd.mats;
}

ce_status ce_engine_repack(ce_engine *engine, const ce_tensor *t, uint64_t *n_bytes,
                           ce_error *err) {
    *n_bytes = 0;
    if (t->role < 0 || t->role >= CE_N_ROLES || t->layer < 0 ||
        t->layer >= engine->model.hp.n_layers)
        return ce_fail(err, CE_ERR_ARGUMENT, "there is no such tensor");
    const ce_weight *weight = ce_model_weight(&engine->model, t->role, t->layer);
    if (weight == NULL || is_read_by_rows(&engine->model, t, weight))
        return ce_ok(err);
    ce_status status = ce_pool_lock(engine->pool, err);
    if (status != CE_OK)
        return status;
    for (int i = 0; i < weight->n_mats && status == CE_OK; i++)
        if ((t->expert == CE_ALL_EXPERTS || t->expert == i) && can_repack(engine, &weight->mats[i]))
            status = repack_matrix(engine, &weight->mats[i], n_bytes, err);
    ce_pool_unlock(engine->pool);
    return status == CE_OK ? ce_ok(err) : status;
}
