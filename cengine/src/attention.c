#include "attention.h"

#include <string.h>

#include "rope.h"
#include "session.h"

typedef struct {
    const ce_pass *pass;
    int layer;
} attention_loop;

/* Every row's keys and values are stored before any row attends: a prompt's tokens see those
 * before them in the same pass. */
static void store_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const attention_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    const ce_hparams *hp = &engine->model.hp;
    const ce_scratch *s = &engine->scratch;
    const int hd = hp->head_dim, half = hd / 2;
    const float *cos = s->rope_cos + row * half, *sin = s->rope_sin + row * half;
    float *k = s->k + row * hp->n_kv_heads * hd;
    float *v = s->v + row * hp->n_kv_heads * hd;
    ce_rope_rotate(s->q + row * hp->n_heads * hd, hp->n_heads, hd, cos, sin);
    ce_rope_rotate(k, hp->n_kv_heads, hd, cos, sin);

    const ce_session *session = loop->pass->items[s->item[row]].session;
    const size_t at = (size_t)s->position[row] * session->row_bytes;
    for (int h = 0; h < hp->n_kv_heads; h++) {
        uint8_t *keys = ce_session_kv(session, loop->layer, CE_KEYS, h) + at;
        uint8_t *values = ce_session_kv(session, loop->layer, CE_VALUES, h) + at;
        if (session->kv_type == CE_TYPE_F16) {
            engine->kernels.f32_to_f16((uint16_t *)(void *)keys, k + h * hd, hd);
            engine->kernels.f32_to_f16((uint16_t *)(void *)values, v + h * hd, hd);
        } else {
            memcpy(keys, k + h * hd, session->row_bytes);
            memcpy(values, v + h * hd, session->row_bytes);
        }
    }
}

static int max(int a, int b) { return a > b ? a : b; }

/* One row's query heads that share one KV head. */
static void attend_chunk(void *ctx, int64_t chunk, int thread) {
    (void)thread;
    const attention_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    const ce_hparams *hp = &engine->model.hp;
    const ce_scratch *s = &engine->scratch;
    const int64_t row = chunk / hp->n_kv_heads;
    const int kv_head = (int)(chunk % hp->n_kv_heads);
    const int group = hp->n_heads / hp->n_kv_heads;
    const int64_t head = row * hp->n_heads + (int64_t)kv_head * group;

    const ce_session *session = loop->pass->items[s->item[row]].session;
    const int end = s->position[row] + 1;
    const int begin = hp->sliding_window > 0 ? max(0, end - hp->sliding_window) : 0;
    ce_attend_fn *attend =
        session->kv_type == CE_TYPE_F16 ? engine->kernels.attend_f16 : engine->kernels.attend_f32;
    attend(s->heads.f32 + head * hp->head_dim, s->q + head * hp->head_dim,
           ce_session_kv(session, loop->layer, CE_KEYS, kv_head),
           ce_session_kv(session, loop->layer, CE_VALUES, kv_head), session->row_bytes, begin, end,
           group, hp->head_dim, engine->attention_scale);
}

bool ce_attention(const ce_pass *pass, int layer) {
    attention_loop loop = {.pass = pass, .layer = layer};
    return ce_pass_run(pass, pass->n_rows, store_chunk, &loop) &&
           ce_pass_run(pass, (int64_t)pass->n_rows * pass->engine->model.hp.n_kv_heads,
                       attend_chunk, &loop);
}
