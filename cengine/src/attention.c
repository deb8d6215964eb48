/* Attention as tasks: rows of one session that look at one range of positions, once for each KV
 * head. A prompt's rows come in tiles. A generated token looks at a long context in parts, which
 * are merged in order (arXiv:2311.01282), so that every thread has work; where the parts end
 * depends on the token's position and nothing else. */
#include "attention.h"

#include <math.h>
#include <string.h>

#include "blocks.h"
#include "inline.h"
#include "matmul.h"
#include "rope.h"
#include "session.h"

typedef struct {
    const ce_pass *pass;
    int layer;
    int first_row, n_rows; /* of the pass; those that the tasks are about */
    int n_tasks;
} attention_loop;

static const ce_session *session_of(const ce_pass *pass, int64_t row) {
    return pass->items[pass->engine->scratch.item[row]].session;
}

/* ---- Storing. Every row's keys and values are there before any row attends: a prompt's tokens see
 * those before them in the same pass. ---- */

/* n floats (a multiple of 32) to Q8_0 blocks. */
static void store_q8_0(const ce_kernels *kernels, ce_block_q8_0 *to, const float *x, int n) {
    for (int i = 0; i < n; i += CE_QK, to++) {
        float scale;
        ce_act_sums unused;
        kernels->quantize_act(to->qs, &scale, &unused, x + i, CE_QK);
        kernels->f32_to_f16(&to->d, &scale, 1);
    }
}

/* One position of one KV head. */
static void store_kv(const ce_session *session, uint8_t *to, const float *x) {
    const ce_kernels *kernels = &session->engine->kernels;
    const int head_dim = session->engine->model.hp.head_dim;
    if (session->kv_type == CE_TYPE_F16)
        kernels->f32_to_f16((uint16_t *)(void *)to, x, head_dim);
    else if (session->kv_type == CE_TYPE_Q8_0)
        store_q8_0(kernels, (ce_block_q8_0 *)(void *)to, x, head_dim);
    else
        memcpy(to, x, session->row_bytes);
}

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

    const ce_session *session = session_of(loop->pass, row);
    const size_t at = (size_t)s->position[row] * session->row_bytes;
    for (int h = 0; h < hp->n_kv_heads; h++) {
        store_kv(session, ce_session_kv(session, loop->layer, CE_KEYS, h) + at, k + h * hd);
        store_kv(session, ce_session_kv(session, loop->layer, CE_VALUES, h) + at, v + h * hd);
    }
}

bool ce_store_kv(const ce_pass *pass, int layer) {
    attention_loop loop = {.pass = pass, .layer = layer};
    return ce_pass_run(pass, pass->n_rows, store_chunk, &loop);
}

/* ---- The tasks ---- */

static int first_seen(const ce_pass *pass, int row) {
    const int window = pass->engine->model.hp.sliding_window;
    const int end = pass->engine->scratch.position[row] + 1;
    return window > 0 ? max_int(0, end - window) : 0;
}

static void list_prompt_tasks(attention_loop *loop) {
    const ce_engine *engine = loop->pass->engine;
    const ce_scratch *s = &engine->scratch;
    const int group = engine->model.hp.n_heads / engine->model.hp.n_kv_heads;
    const int tile = max_int(1, engine->kernels.attend_queries / group);
    for (int row = 0; row < loop->n_rows;) {
        int n = 1;
        while (n < tile && row + n < loop->n_rows && s->item[row + n] == s->item[row])
            n++;
        s->attend_tasks[loop->n_tasks++] = (ce_attend_task){
            .row = row,
            .n_rows = n,
            .begin = first_seen(loop->pass, row),
            .end = s->position[row] + n,
            .split = -1,
        };
        row += n;
    }
}

/* Positions in each part of a context that ends at `end`, but for the last. */
static int split_length(int end) {
    const int unit = CE_SPLIT_UNIT * CE_MAX_SPLITS;
    return (end + unit - 1) / unit * CE_SPLIT_UNIT;
}

static int count_splits(const ce_pass *pass, int row) {
    const int end = pass->engine->scratch.position[row] + 1, length = split_length(end);
    return (end - 1) / length - first_seen(pass, row) / length + 1;
}

static void list_generated_tasks(attention_loop *loop) {
    const ce_scratch *s = &loop->pass->engine->scratch;
    for (int row = loop->first_row; row < loop->first_row + loop->n_rows; row++) {
        const int end = s->position[row] + 1, length = split_length(end);
        const int n_splits = count_splits(loop->pass, row);
        int begin = first_seen(loop->pass, row);
        for (int i = 0; i < n_splits; i++) {
            const int split_end = min_int(end, (begin / length + 1) * length);
            s->attend_tasks[loop->n_tasks++] = (ce_attend_task){
                .row = row,
                .n_rows = 1,
                .begin = begin,
                .end = split_end,
                .split = n_splits > 1 ? i : -1,
            };
            begin = split_end;
        }
    }
}

/* Which of the parts in split_out and split_log_sum it is. */
static int64_t split_index(const attention_loop *loop, int row, int split) {
    return (int64_t)(row - loop->first_row) * CE_MAX_SPLITS + split;
}

static void attend_chunk(void *ctx, int64_t chunk, int thread) {
    const attention_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    const ce_hparams *hp = &engine->model.hp;
    const ce_scratch *s = &engine->scratch;
    const ce_attend_task *task = &s->attend_tasks[chunk / hp->n_kv_heads];
    const int kv_head = (int)(chunk % hp->n_kv_heads);
    const int group = hp->n_heads / hp->n_kv_heads;
    const int64_t n_columns = hp->n_heads * hp->head_dim, column = kv_head * group * hp->head_dim;
    const ce_session *session = session_of(loop->pass, task->row);
    ce_queries queries = {
        .q = s->q + task->row * n_columns + column,
        .out = s->heads.f32 + task->row * n_columns + column,
        .row_stride = (size_t)n_columns,
        .k = ce_session_kv(session, loop->layer, CE_KEYS, kv_head),
        .v = ce_session_kv(session, loop->layer, CE_VALUES, kv_head),
        .kv_type = engine->kernels.dequantize[session->kv_type],
        .kv_row_bytes = session->row_bytes,
        .n_rows = task->n_rows,
        .n_heads = group,
        .head_dim = hp->head_dim,
        .position = s->position[task->row],
        .begin = task->begin,
        .end = task->end,
        .window = hp->sliding_window,
        .scale = engine->attention_scale,
        .scratch = s->attend_scratch + (size_t)thread * s->attend_bytes,
    };
    if (task->split >= 0) {
        const int64_t at = split_index(loop, task->row, task->split);
        queries.out = s->split_out + at * n_columns + column;
        queries.log_sum = s->split_log_sum + at * hp->n_heads + kv_head * group;
    }
    engine->kernels.attend[loop->pass->phase][session->kv_type](&queries);
}

/* ---- Merging ---- */

/* One head's parts, each weighed by its share of the softmax's sum. */
static void merge_head(float *out, const float *parts, size_t part_stride, const float *log_sums,
                       size_t log_sum_stride, int n_parts, int head_dim) {
    float largest = log_sums[0], sum = 0;
    for (int i = 1; i < n_parts; i++)
        largest = fmaxf(largest, log_sums[(size_t)i * log_sum_stride]);
    memset(out, 0, (size_t)head_dim * sizeof *out);
    for (int i = 0; i < n_parts; i++) {
        const float weight = exp2f(log_sums[(size_t)i * log_sum_stride] - largest);
        const float *part = parts + (size_t)i * part_stride;
        sum += weight;
        for (int d = 0; d < head_dim; d++)
            out[d] += weight * part[d];
    }
    for (int d = 0; d < head_dim; d++)
        out[d] /= sum;
}

static void finish_chunk(void *ctx, int64_t i, int thread) {
    (void)thread;
    const attention_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    const ce_hparams *hp = &engine->model.hp;
    ce_scratch *s = &loop->pass->engine->scratch;
    const int row = loop->first_row + (int)i;
    const int n_parts = loop->pass->phase == CE_PHASE_GENERATED ? count_splits(loop->pass, row) : 1;
    const size_t n_heads = (size_t)hp->n_heads, n_columns = n_heads * (size_t)hp->head_dim;
    const size_t at = (size_t)split_index(loop, row, 0);
    for (size_t h = 0; n_parts > 1 && h < n_heads; h++) {
        const size_t column = h * (size_t)hp->head_dim;
        merge_head(s->heads.f32 + (size_t)row * n_columns + column,
                   s->split_out + at * n_columns + column, n_columns,
                   s->split_log_sum + at * n_heads + h, n_heads, n_parts, hp->head_dim);
    }
    ce_quantize_row(loop->pass, &s->heads, row);
}

bool ce_attend(const ce_pass *pass, int layer) {
    const bool is_prompt = pass->phase == CE_PHASE_PROMPT;
    const int step = is_prompt ? pass->n_rows : CE_SPLIT_ROWS;
    attention_loop loop = {.pass = pass, .layer = layer};
    for (int row = 0; row < pass->n_rows; row += step) {
        loop.first_row = row;
        loop.n_rows = min_int(step, pass->n_rows - row);
        loop.n_tasks = 0;
        if (is_prompt)
            list_prompt_tasks(&loop);
        else
            list_generated_tasks(&loop);
        if (!ce_pass_run(pass, (int64_t)loop.n_tasks * pass->engine->model.hp.n_kv_heads,
                         attend_chunk, &loop) ||
            !ce_pass_run(pass, loop.n_rows, finish_chunk, &loop))
            return false;
    }
    return true;
}
