#include "moe.h"

#include <math.h>
#include <string.h>

#include "matmul.h"
#include "profile.h"
#include "tap.h"

typedef struct {
    ce_pass *pass;
    const ce_layer *layer;
} moe_loop;

/* ---- Router ---- */

_Static_assert(CE_MAX_EXPERTS <= 64, "top_k has a bit for each");

/* The n_used largest of logits, best first; of equal ones the lowest index. */
static void top_k(const float *logits, int n_experts, int n_used, int32_t *chosen) {
    uint64_t taken = 0;
    for (int k = 0; k < n_used; k++) {
        int best = -1;
        for (int e = 0; e < n_experts; e++)
            if ((taken >> e & 1) == 0 && (best < 0 || logits[e] > logits[best]))
                best = e;
        taken |= (uint64_t)1 << best;
        chosen[k] = best;
    }
}

/* Softmax over the chosen experts alone, in float32: the same number as a softmax over all that
 * is then renormalised. */
static void softmax_chosen(const float *logits, const int32_t *chosen, int n_used, float *weight) {
    float total = 0;
    for (int k = 0; k < n_used; k++) {
        weight[k] = expf(logits[chosen[k]] - logits[chosen[0]]);
        total += weight[k];
    }
    for (int k = 0; k < n_used; k++)
        weight[k] /= total;
}

static bool all_finite(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void route_chunk(void *ctx, int64_t row, int thread) {
    const moe_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    const ce_model *m = &engine->model;
    const ce_scratch *s = &engine->scratch;
    float *logits = s->router_logits + row * m->n_experts;
    int32_t *chosen = s->chosen + row * m->n_used;
    if (m->hp.n_experts == 0) {
        chosen[0] = 0;
        s->chosen_weight[row] = 1;
        return;
    }
    const ce_matrix w = ce_weight_matrix(&loop->layer->router, 0);
    const ce_acts x = ce_act_view(&s->norm, row);
    /* One row at a time in either phase: the kernels for that. */
    engine->kernels.matmul[CE_PHASE_GENERATED][w.type].run(
        logits, (size_t)m->n_experts, w.data, (size_t)w.row_bytes, m->n_experts, &x, 1, m->hp.dim,
        s->work + (size_t)thread * CE_WORK_BYTES);
    if (all_finite(logits, m->n_experts)) {
        top_k(logits, m->n_experts, m->n_used, chosen);
        softmax_chosen(logits, chosen, m->n_used, s->chosen_weight + row * m->n_used);
    } else {
        for (int k = 0; k < m->n_used; k++)
            chosen[k] = -1;
    }
}

static void fail_items_without_experts(ce_pass *pass, int layer) {
    const ce_scratch *s = &pass->engine->scratch;
    for (int row = 0; row < pass->n_rows; row++) {
        ce_item *item = &pass->items[s->item[row]];
        if (s->chosen[row * pass->engine->model.n_used] < 0 && item->status == CE_OK) {
            item->status = CE_ERR_NUMERIC;
            pass->error_layer = layer;
            pass->error_position = s->position[row];
        }
    }
}

/* ---- Grouping: a counting sort of (row, choice) pairs by expert, in row order ---- */

static void sort_pairs(const ce_pass *pass) {
    const ce_model *m = &pass->engine->model;
    const ce_scratch *s = &pass->engine->scratch;
    const int n_choices = pass->n_rows * m->n_used;
    memset(s->expert_begin, 0, ((size_t)m->n_experts + 1) * sizeof *s->expert_begin);
    for (int c = 0; c < n_choices; c++)
        if (s->chosen[c] >= 0)
            s->expert_begin[s->chosen[c] + 1]++;
    for (int e = 0; e < m->n_experts; e++)
        s->expert_begin[e + 1] += s->expert_begin[e];

    int32_t next[CE_MAX_EXPERTS];
    memcpy(next, s->expert_begin, (size_t)m->n_experts * sizeof *next);
    for (int c = 0; c < n_choices; c++) {
        const int expert = s->chosen[c];
        s->pair_of[c] = expert < 0 ? -1 : next[expert]++;
        if (expert < 0)
            continue;
        const int pair = s->pair_of[c], row = c / m->n_used;
        s->pair_row[pair] = row;
        s->pair_item[pair] = s->item[row];
        s->pair_position[pair] = s->position[row];
    }
}

/* Experts read their rows one after the other: the row is copied with its quantized form. */
static void gather_chunk(void *ctx, int64_t pair, int thread) {
    (void)thread;
    const moe_loop *loop = ctx;
    const ce_scratch *s = &loop->pass->engine->scratch;
    const size_t cols = (size_t)s->norm.n_cols, n_blocks = cols / CE_ACT_BLOCK;
    const ce_acts from = ce_act_view(&s->norm, s->pair_row[pair]);
    const ce_act_rows *to = &s->expert_in;
    memcpy(to->f32 + (size_t)pair * cols, from.f32, cols * sizeof *from.f32);
    if (!ce_reads_int8(loop->pass, to))
        return;
    memcpy(to->q + (size_t)pair * cols, from.q, cols);
    memcpy(to->scale + (size_t)pair * n_blocks, from.scale, n_blocks * sizeof *from.scale);
    memcpy(to->sums + (size_t)pair * n_blocks, from.sums, n_blocks * sizeof *from.sums);
}

/* ---- Experts ---- */

/* y = w . x for each expert's rows or, with `up`, silu(w . x) * (up . x). */
static bool run_experts(const ce_pass *pass, const ce_weight *w, const ce_weight *up,
                        const ce_act_rows *x, float *y) {
    const int32_t *expert_begin = pass->engine->scratch.expert_begin;
    ce_matmul_job jobs[CE_MAX_JOBS];
    int n_jobs = 0;
    for (int e = 0; e < pass->engine->model.n_experts; e++) {
        const int begin = expert_begin[e], n = expert_begin[e + 1] - begin;
        if (n == 0)
            continue;
        ce_matmul_job *job = &jobs[n_jobs++];
        *job =
            (ce_matmul_job){.w = ce_weight_matrix(w, e), .x = ce_act_view(x, begin), .n_tokens = n};
        job->y = y + (int64_t)begin * job->w.n_rows;
        if (up != NULL) {
            job->gated = true;
            job->up = ce_weight_matrix(up, e);
        }
    }
    return ce_matmul(pass, jobs, n_jobs);
}

/* A row's experts are summed best first, whatever the batch. */
static void combine_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const moe_loop *loop = ctx;
    const ce_model *m = &loop->pass->engine->model;
    const ce_scratch *s = &loop->pass->engine->scratch;
    const int dim = m->hp.dim;
    float *x = s->x + row * dim;
    float *sum = s->proj + row * dim;
    memset(sum, 0, (size_t)dim * sizeof *sum);
    for (int k = 0; k < m->n_used; k++) {
        const int64_t choice = row * m->n_used + k;
        if (s->pair_of[choice] < 0)
            continue;
        const float weight = s->chosen_weight[choice];
        const float *out = s->expert_out + (int64_t)s->pair_of[choice] * dim;
        for (int i = 0; i < dim; i++)
            sum[i] += weight * out[i];
    }
    for (int i = 0; i < dim; i++)
        x[i] += sum[i];
}

bool ce_feed_forward(ce_pass *pass, int layer) {
    ce_scratch *s = &pass->engine->scratch;
    moe_loop loop = {.pass = pass, .layer = &pass->engine->model.layers[layer]};
    if (!ce_pass_run(pass, pass->n_rows, route_chunk, &loop))
        return false;
    fail_items_without_experts(pass, layer);
    sort_pairs(pass);
    ce_tap_router(pass, layer);
    const int n_pairs = s->expert_begin[pass->engine->model.n_experts];
    if (!ce_pass_run(pass, n_pairs, gather_chunk, &loop))
        return false;
    ce_tap_experts(pass, CE_FFN_GATE, layer, &s->expert_in);
    ce_clock(pass, CE_OP_ROUTER);
    const ce_layer *l = loop.layer;
    if (!run_experts(pass, &l->gate, &l->up, &s->expert_in, s->hidden.f32) ||
        !ce_quantize_rows(pass, &s->hidden, n_pairs))
        return false;
    ce_tap_experts(pass, CE_FFN_DOWN, layer, &s->hidden);
    ce_clock(pass, CE_OP_GATE_UP);
    const bool done = run_experts(pass, &l->down, NULL, &s->hidden, s->expert_out) &&
                      ce_pass_run(pass, pass->n_rows, combine_chunk, &loop);
    ce_clock(pass, CE_OP_DOWN);
    return done;
}
