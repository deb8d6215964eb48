/* The forward pass, straight down the paper, over batches of rows from one or more sessions. */
#include <string.h>

#include "attention.h"
#include "error.h"
#include "matmul.h"
#include "moe.h"
#include "norm.h"
#include "profile.h"
#include "rope.h"
#include "session.h"
#include "tap.h"

bool ce_pass_run(const ce_pass *pass, int64_t n, ce_chunk_fn *fn, void *ctx) {
    ce_pool_run(pass->engine->pool, n, fn, ctx, pass->cancel);
    return !ce_cancelled(pass->cancel);
}

/* ---- Parts of a layer ---- */

static void embed(const ce_pass *pass) {
    const ce_engine *engine = pass->engine;
    const ce_scratch *s = &engine->scratch;
    const ce_matrix table = ce_weight_matrix(&engine->model.token_embd, 0);
    for (int row = 0; row < pass->n_rows; row++)
        engine->kernels.dequantize[table.type](s->x + (int64_t)row * table.n_cols,
                                               ce_matrix_row(&table, s->id[row]), table.n_cols);
}

static bool project_qkv(const ce_pass *pass, const ce_layer *layer) {
    const ce_scratch *s = &pass->engine->scratch;
    const struct {
        const ce_weight *weight;
        float *y;
    } parts[CE_SHARED_INPUT_JOBS] = {{&layer->q, s->q}, {&layer->k, s->k}, {&layer->v, s->v}};
    ce_matmul_job jobs[CE_SHARED_INPUT_JOBS];
    for (int i = 0; i < CE_SHARED_INPUT_JOBS; i++)
        jobs[i] = (ce_matmul_job){.w = ce_weight_matrix(parts[i].weight, 0),
                                  .x = ce_act_view(&s->norm, 0),
                                  .n_tokens = pass->n_rows,
                                  .y = parts[i].y};
    return ce_matmul(pass, jobs, CE_SHARED_INPUT_JOBS);
}

static bool project_heads(const ce_pass *pass, const ce_layer *layer) {
    const ce_scratch *s = &pass->engine->scratch;
    const ce_matmul_job job = {.w = ce_weight_matrix(&layer->attn_output, 0),
                               .x = ce_act_view(&s->heads, 0),
                               .n_tokens = pass->n_rows,
                               .y = s->proj};
    return ce_matmul(pass, &job, 1);
}

/* ---- The rows that go on: those whose logits are wanted ---- */

static const ce_item *item_of(const ce_pass *pass, int row) {
    return &pass->items[pass->engine->scratch.item[row]];
}

/* Which of the item's logits the row is; negative where they are not wanted. */
static int64_t logits_index(const ce_pass *pass, int row) {
    const ce_item *item = item_of(pass, row);
    const int n_after = item->session->length + item->n_ids - pass->engine->scratch.position[row];
    return (int64_t)item->n_logits - n_after;
}

/* Drops the other rows from the pass, and those of items that failed. */
static void keep_head_rows(ce_pass *pass) {
    const ce_scratch *s = &pass->engine->scratch;
    const size_t dim = (size_t)s->norm.n_cols, q_cols = (size_t)s->heads.n_cols;
    int n = 0;
    for (int row = 0; row < pass->n_rows; row++) {
        if (item_of(pass, row)->status != CE_OK || logits_index(pass, row) < 0)
            continue;
        if (row != n) {
            s->item[n] = s->item[row];
            s->position[n] = s->position[row];
            memcpy(s->x + (size_t)n * dim, s->x + (size_t)row * dim, dim * sizeof *s->x);
            memcpy(s->q + (size_t)n * q_cols, s->q + (size_t)row * q_cols, q_cols * sizeof *s->q);
        }
        n++;
    }
    pass->n_rows = n;
}

/* ---- The layers ---- */

/* Behind the last layer's keys and values, a row serves its own logits alone. A tap wants all. */
static bool all_rows_go_on(const ce_pass *pass, int layer) {
    const ce_engine *engine = pass->engine;
    return engine->tap != NULL || layer + 1 < engine->model.hp.n_layers;
}

static bool run_layer(ce_pass *pass, int i) {
    ce_scratch *s = &pass->engine->scratch;
    const ce_layer *layer = &pass->engine->model.layers[i];

    if (!ce_norm_rows(pass, NULL, layer->attn_norm))
        return false;
    ce_tap_rows(pass, CE_ATTN_Q, i, &s->norm);
    ce_clock(pass, CE_OP_NORM);
    if (!project_qkv(pass, layer))
        return false;
    ce_clock(pass, CE_OP_QKV);
    if (!ce_store_kv(pass, i))
        return false;
    if (!all_rows_go_on(pass, i))
        keep_head_rows(pass);
    if (pass->n_rows == 0)
        return true;
    if (!ce_attend(pass, i))
        return false;
    ce_tap_rows(pass, CE_ATTN_OUTPUT, i, &s->heads);
    ce_clock(pass, CE_OP_ATTENTION);
    if (!project_heads(pass, layer))
        return false;
    ce_clock(pass, CE_OP_ATTN_OUTPUT);
    if (!ce_norm_rows(pass, s->proj, layer->ffn_norm))
        return false;
    ce_clock(pass, CE_OP_NORM);
    return ce_feed_forward(pass, i);
}

/* ---- The head ---- */

/* Of rows [first, first + n). */
static bool compute_logits(const ce_pass *pass, int first, int n) {
    const ce_engine *engine = pass->engine;
    const ce_scratch *s = &engine->scratch;
    const size_t n_vocab = (size_t)engine->model.hp.n_vocab;
    const ce_matmul_job job = {.w = ce_weight_matrix(&engine->model.output, 0),
                               .x = ce_act_view(&s->norm, first),
                               .n_tokens = n,
                               .y = s->logits};
    if (!ce_matmul(pass, &job, 1))
        return false;
    for (int i = 0; i < n; i++) {
        float *to = item_of(pass, first + i)->logits;
        memcpy(to + (size_t)logits_index(pass, first + i) * n_vocab,
               s->logits + (size_t)i * n_vocab, n_vocab * sizeof *to);
    }
    return true;
}

/* It is one row of a prompt as a rule: in either phase it has the kernels for that, which are the
 * more exact ones too. */
static bool run_head(ce_pass *pass) {
    const ce_engine *engine = pass->engine;
    keep_head_rows(pass); /* for a tap, or after a failure, there are others still */
    ce_pass head = *pass;
    head.phase = CE_PHASE_GENERATED;
    if (!ce_norm_rows(&head, NULL, engine->model.output_norm))
        return false;
    ce_tap_rows(&head, CE_OUTPUT, 0, &engine->scratch.norm);
    for (int first = 0; first < head.n_rows; first += CE_HEAD_ROWS) {
        const int n_left = head.n_rows - first;
        if (!compute_logits(&head, first, n_left < CE_HEAD_ROWS ? n_left : CE_HEAD_ROWS))
            return false;
    }
    return true;
}

static bool run_pass(ce_pass *pass) {
    ce_start_clock(pass);
    ce_rope_tables(pass);
    embed(pass);
    ce_clock(pass, CE_OP_EMBED);
    for (int i = 0; i < pass->engine->model.hp.n_layers; i++)
        if (!run_layer(pass, i))
            return false;
    const bool done = run_head(pass);
    ce_clock(pass, CE_OP_HEAD);
    return done;
}

/* ---- A batch: items in order, cut into passes of at most batch_rows rows ---- */

typedef struct {
    int item;
    int offset; /* into that item's ids */
} cursor;

/* Takes the next rows from the items that have not failed; false when none are left. */
static bool fill_pass(ce_pass *pass, cursor *at, int n_items) {
    ce_scratch *s = &pass->engine->scratch;
    pass->n_rows = 0;
    while (at->item < n_items && pass->n_rows < pass->engine->batch_rows) {
        const ce_item *item = &pass->items[at->item];
        if (item->status != CE_OK || at->offset == item->n_ids) {
            *at = (cursor){.item = at->item + 1};
            continue;
        }
        s->id[pass->n_rows] = item->ids[at->offset];
        s->item[pass->n_rows] = at->item;
        s->position[pass->n_rows] = item->session->length + at->offset;
        pass->n_rows++;
        at->offset++;
    }
    return pass->n_rows > 0;
}

static ce_status check_ids(const ce_item *item, int n_vocab, ce_error *err) {
    for (int i = 0; i < item->n_ids; i++)
        if (item->ids[i] < 0 || item->ids[i] >= n_vocab)
            return ce_fail(err, CE_ERR_ARGUMENT,
                           "token id %d at index %d is outside the vocabulary of %d", item->ids[i],
                           i, n_vocab);
    return CE_OK;
}

static ce_status check_item(const ce_engine *engine, const ce_item *item, ce_error *err) {
    const ce_session *s = item->session;
    if (s == NULL || item->ids == NULL || s->engine != engine)
        return ce_fail(err, CE_ERR_ARGUMENT,
                       "an item without ids or without a session of this engine");
    if (item->n_ids < 1 || item->n_logits < 0 || item->n_logits > item->n_ids ||
        (item->n_logits > 0 && item->logits == NULL))
        return ce_fail(err, CE_ERR_ARGUMENT, "an item of %d ids cannot give %d logits", item->n_ids,
                       item->n_logits);
    if (item->n_ids > s->n_ctx - s->length)
        return ce_fail(err, CE_ERR_CONTEXT,
                       "%d positions are taken and %d more asked for, but the context has %d",
                       s->length, item->n_ids, s->n_ctx);
    return check_ids(item, engine->model.hp.n_vocab, err);
}

/* Marks the sessions as held; those that cannot be evaluated get their status. */
static ce_status take_sessions(ce_engine *engine, ce_item *items, int n_items, bool *held,
                               ce_error *err) {
    ce_status first = CE_OK;
    for (int i = 0; i < n_items; i++) {
        ce_error *message = first == CE_OK ? err : NULL;
        ce_session *s = items[i].session;
        held[i] = false;
        items[i].status = CE_OK;
        if (s != NULL && atomic_flag_test_and_set(&s->busy))
            items[i].status = ce_fail(message, CE_ERR_BUSY,
                                      "the session is being used already, by another thread or by "
                                      "another item of this batch");
        else {
            held[i] = s != NULL;
            items[i].status = check_item(engine, &items[i], message);
        }
        if (first == CE_OK)
            first = items[i].status;
    }
    return first;
}

/* `end`: of the batch as a whole. */
static void finish_sessions(ce_item *items, int n_items, const bool *held, ce_status end) {
    for (int i = 0; i < n_items; i++) {
        if (items[i].status == CE_OK)
            items[i].status = end;
        if (items[i].status == CE_OK)
            items[i].session->length += items[i].n_ids;
        if (held[i])
            atomic_flag_clear(&items[i].session->busy);
    }
}

static ce_status run_items(ce_pass *pass, int n_items, ce_error *err) {
    cursor at = {0};
    bool cancelled = ce_cancelled(pass->cancel);
    while (!cancelled && fill_pass(pass, &at, n_items))
        cancelled = !run_pass(pass);
    return cancelled ? ce_fail(err, CE_ERR_CANCELLED, "the evaluation was cancelled") : CE_OK;
}

static ce_status first_failure(const ce_pass *pass, int n_items, ce_error *err) {
    for (int i = 0; i < n_items; i++)
        if (pass->items[i].status == CE_ERR_NUMERIC)
            return ce_fail(err, CE_ERR_NUMERIC,
                           "layer %d gave router logits that are not finite at position %d: the "
                           "weights are damaged, or were quantized beyond their range",
                           pass->error_layer, pass->error_position);
    return CE_OK;
}

ce_status ce_eval(ce_engine *engine, int32_t phase, ce_item *items, int32_t n_items,
                  ce_error *err) {
    if (n_items < 1 || n_items > CE_MAX_ITEMS)
        return ce_fail(err, CE_ERR_ARGUMENT, "a batch has 1 ... %d items, not %d", CE_MAX_ITEMS,
                       n_items);
    if (phase != CE_PHASE_PROMPT && phase != CE_PHASE_GENERATED)
        return ce_fail(err, CE_ERR_ARGUMENT, "phase %d does not exist", phase);

    ce_ok(err);
    bool held[CE_MAX_ITEMS];
    const ce_status refused = take_sessions(engine, items, n_items, held, err);
    ce_error *message = refused == CE_OK ? err : NULL;

    const atomic_int *flags[CE_MAX_ITEMS];
    ce_cancel cancel = {.flags = flags};
    for (int i = 0; i < n_items; i++)
        if (items[i].status == CE_OK)
            flags[cancel.n++] = &items[i].session->cancel;

    ce_pass pass = {.engine = engine, .phase = (ce_phase)phase, .cancel = &cancel, .items = items};
    ce_status end = cancel.n > 0 ? ce_pool_lock(engine->pool, &cancel, message) : refused;
    if (end == CE_OK) {
        end = run_items(&pass, n_items, message);
        ce_pool_unlock(engine->pool);
    }
    finish_sessions(items, n_items, held, end);
    return refused != CE_OK ? refused : end != CE_OK ? end : first_failure(&pass, n_items, err);
}
