#include "session.h"

#include <string.h>

#include "error.h"

uint64_t ce_session_kv_bytes(const ce_hparams *hp, int32_t n_ctx, int32_t kv_type) {
    uint64_t rows = ce_mul(2 * (uint64_t)hp->n_layers * (uint64_t)hp->n_kv_heads, (uint64_t)n_ctx);
    return ce_mul(rows, ce_row_bytes(kv_type, hp->head_dim));
}

/* The KV rows of one (layer, keys or values, head), for the loops over all of them. */
static uint8_t *kv_plane(const ce_session *s, int64_t plane) {
    return s->kv + (uint64_t)plane * (uint64_t)s->n_ctx * s->row_bytes;
}

uint8_t *ce_session_kv(const ce_session *s, int layer, int which, int kv_head) {
    return kv_plane(s, ((int64_t)layer * 2 + which) * s->engine->model.hp.n_kv_heads + kv_head);
}

ce_status ce_session_create(ce_engine *engine, int32_t n_ctx, int32_t kv_type, ce_session **out,
                            ce_error *err) {
    const ce_hparams *hp = &engine->model.hp;
    if (n_ctx < 1)
        return ce_fail(err, CE_ERR_ARGUMENT, "a context of %d positions is too short", n_ctx);
    if (kv_type < 0 || kv_type >= CE_MAX_TYPE ||
        engine->kernels.attend[CE_PHASE_PROMPT][kv_type] == NULL)
        return ce_fail(err, CE_ERR_ARGUMENT, "the KV cache can be f16, q8_0 or f32, not type %d",
                       kv_type);
    if (ce_row_bytes(kv_type, hp->head_dim) == 0)
        return ce_fail(err, CE_ERR_ARGUMENT,
                       "a q8_0 KV cache needs heads of a multiple of 32, and this model's have %d; "
                       "choose f16",
                       hp->head_dim);
    const uint64_t kv_bytes = ce_session_kv_bytes(hp, n_ctx, kv_type);
    ce_session *s = ce_alloc(sizeof *s);
    uint8_t *kv = ce_alloc(kv_bytes);
    if (s == NULL || kv == NULL) {
        ce_free(s);
        ce_free(kv);
        return ce_fail(err, CE_ERR_MEMORY,
                       "out of memory: the KV cache of %d positions takes %llu MB", n_ctx,
                       (unsigned long long)(kv_bytes / 1000000));
    }
    *s = (ce_session){
        .engine = engine,
        .n_ctx = n_ctx,
        .kv_type = kv_type,
        .row_bytes = (size_t)ce_row_bytes(kv_type, hp->head_dim),
        .kv = kv,
        .busy = ATOMIC_FLAG_INIT,
    };
    *out = s;
    return ce_ok(err);
}

void ce_session_free(ce_session *session) {
    if (session == NULL)
        return;
    ce_free(session->kv);
    ce_free(session);
}

int32_t ce_session_length(const ce_session *session) { return session->length; }

int32_t ce_session_n_ctx(const ce_session *session) { return session->n_ctx; }

static ce_status hold(ce_session *session, ce_error *err) {
    return atomic_flag_test_and_set(&session->busy)
               ? ce_fail(err, CE_ERR_BUSY, "the session is being used by another thread")
               : ce_ok(err);
}

static void let_go(ce_session *session) { atomic_flag_clear(&session->busy); }

ce_status ce_session_truncate(ce_session *session, int32_t length, ce_error *err) {
    ce_status status = hold(session, err);
    if (status != CE_OK)
        return status;
    if (length < 0 || length > session->length)
        status = ce_fail(err, CE_ERR_ARGUMENT, "cannot truncate %d positions to %d",
                         session->length, length);
    else
        session->length = length;
    let_go(session);
    return status;
}

static void copy_positions(ce_session *copy, const ce_session *session) {
    const ce_hparams *hp = &session->engine->model.hp;
    const int64_t n_planes = (int64_t)hp->n_layers * 2 * hp->n_kv_heads;
    for (int64_t p = 0; p < n_planes; p++)
        memcpy(kv_plane(copy, p), kv_plane(session, p),
               (size_t)session->length * session->row_bytes);
    copy->length = session->length;
}

ce_status ce_session_copy(ce_session *session, ce_session **out, ce_error *err) {
    ce_status status = hold(session, err);
    if (status != CE_OK)
        return status;
    status = ce_session_create(session->engine, session->n_ctx, session->kv_type, out, err);
    if (status == CE_OK)
        copy_positions(*out, session);
    let_go(session);
    return status;
}

void ce_session_cancel(ce_session *session) {
    atomic_store(&session->cancel, 1);
    ce_pool_end_waits(session->engine->pool);
}

void ce_session_resume(ce_session *session) { atomic_store(&session->cancel, 0); }
