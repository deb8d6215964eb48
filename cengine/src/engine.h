/* What the operations share: an engine, its scratch memory, and the pass under way. */
#ifndef CE_ENGINE_H
#define CE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "cengine.h"
#include "kernels.h"
#include "memory.h"
#include "model.h"
#include "pool.h"

/* Inputs of matmuls, before and after quantization; ce_acts is the view that kernels take. */
typedef struct {
    float *f32;        /* [rows][n_cols] */
    int8_t *q;         /* [rows][n_cols] */
    float *scale;      /* [rows][n_cols / 32] */
    ce_act_sums *sums; /* [rows][n_cols / 32] */
    int n_cols;
    bool quantized; /* false where n_cols is no multiple of 32: float weights only */
} ce_act_rows;

ce_acts ce_act_view(const ce_act_rows *a, int64_t first_row);

/* Consecutive rows of one session, and positions that they look at. */
typedef struct {
    int row, n_rows;
    int begin, end;
    int split; /* which part of what its row sees; -1: all of it */
} ce_attend_task;

/* B rows (tokens) go through the layers together; each makes n_used pairs with experts, P of them
 * in all, sorted by expert. Sizes: see scratch.c. */
typedef struct {
    int32_t *id;       /* [B] */
    int32_t *item;     /* [B]: which item of the batch */
    int32_t *position; /* [B]: in that item's session */
    float *rope_cos;   /* [B][head_dim / 2] */
    float *rope_sin;   /* [B][head_dim / 2] */
    float *x;          /* [B][dim]: the residual stream */
    ce_act_rows norm;  /* [B][dim]: x after a norm */
    float *q;          /* [B][n_heads * head_dim] */
    float *k;          /* [B][n_kv_heads * head_dim] */
    float *v;          /* [B][n_kv_heads * head_dim] */
    ce_act_rows heads; /* [B][n_heads * head_dim]: attention's output */
    float *proj;       /* [B][dim]: after attn_output */

    ce_attend_task *attend_tasks; /* [max(B, CE_SPLIT_ROWS * CE_MAX_SPLITS)] */
    uint8_t *attend_scratch;      /* [n_threads][attend_bytes] */
    size_t attend_bytes;
    float *split_out;     /* [CE_SPLIT_ROWS][CE_MAX_SPLITS][n_heads * head_dim] */
    float *split_log_sum; /* [CE_SPLIT_ROWS][CE_MAX_SPLITS][n_heads] */

    float *router_logits;   /* [B][n_experts] */
    int32_t *chosen;        /* [B][n_used]: experts, best first; -1 in a row that failed */
    float *chosen_weight;   /* [B][n_used] */
    int32_t *pair_of;       /* [B][n_used]: a choice's place among the sorted pairs */
    int32_t *pair_row;      /* [P] */
    int32_t *pair_item;     /* [P]: for taps */
    int32_t *pair_position; /* [P]: for taps */
    int32_t *expert_begin;  /* [n_experts + 1]: the pairs of expert e start here */
    ce_act_rows expert_in;  /* [P][dim] */
    ce_act_rows hidden;     /* [P][ffn_dim]: silu(gate) * up */
    float *expert_out;      /* [P][dim] */
    float *up_tile;         /* [n_threads][P][CE_CHUNK_ROWS] */
    uint8_t *packed;        /* inputs of the jobs of one ce_matmul, where kernels want them so */
    uint8_t *work;          /* [n_threads][CE_WORK_BYTES] */

    float *logits; /* [CE_HEAD_ROWS][n_vocab] */
} ce_scratch;

enum {
    CE_HEAD_ROWS = 64,        /* rows whose logits are computed together */
    CE_CHUNK_ROWS = 256,      /* most weight rows in one chunk of a matmul */
    CE_SHARED_INPUT_JOBS = 3, /* most matrices that are multiplied with one input: q, k and v */
    CE_DEFAULT_BATCH_ROWS = 512,
    CE_MAX_BATCH_ROWS = 8192,
    CE_MAX_THREADS = 1024,
    CE_MAX_ITEMS = 256,
    CE_SPLIT_ROWS = 8,  /* generated tokens that attend together, each in as many parts */
    CE_MAX_SPLITS = 16, /* as this at most */
    CE_SPLIT_UNIT = 512 /* parts are multiples of so many positions */
};

/* Points the arrays into the arena, which measures them when its base is NULL. */
void ce_scratch_lay_out(ce_scratch *s, ce_arena *arena, const ce_hparams *hp, int batch_rows,
                        int n_threads, const ce_kernels *kernels);

struct ce_engine {
    ce_model model;
    ce_kernels kernels;
    ce_pool *pool;
    ce_scratch scratch;
    void *scratch_block;
    float *inv_freq;       /* [head_dim / 2]: rotary frequencies */
    float attention_scale; /* log2 e / sqrt(head_dim): the softmax counts in powers of 2 */
    int batch_rows;
    ce_tap_fn tap;
    void *tap_user;
    _Atomic uint64_t kernel_calls[CE_N_PHASES][CE_MAX_TYPE];
    _Atomic int64_t op_nanoseconds[CE_N_PHASES][CE_N_OPS];
};

/* One trip of up to batch_rows rows through the layers. */
typedef struct {
    ce_engine *engine;
    ce_phase phase;
    const ce_cancel *cancel;
    ce_item *items;
    int n_rows;
    int error_layer; /* where an item failed, for the message */
    int error_position;
    int64_t clock; /* when it was last looked at, see profile.h */
} ce_pass;

/* fn for every i < n; false once the evaluation has been cancelled. */
bool ce_pass_run(const ce_pass *pass, int64_t n, ce_chunk_fn *fn, void *ctx);

#endif
