#include "engine.h"

ce_acts ce_act_view(const ce_act_rows *a, int64_t first_row) {
    const ce_acts all = {.f32 = a->f32, .q = a->q, .scale = a->scale, .sums = a->sums};
    return ce_acts_from(&all, first_row, a->n_cols);
}

static float *take_floats(ce_arena *arena, uint64_t rows, uint64_t cols) {
    return ce_arena_take(arena, ce_mul(rows, cols), sizeof(float));
}

static int32_t *take_ints(ce_arena *arena, uint64_t n) {
    return ce_arena_take(arena, n, sizeof(int32_t));
}

static ce_act_rows take_acts(ce_arena *arena, uint64_t rows, int n_cols) {
    const uint64_t cols = (uint64_t)n_cols, n_blocks = cols / CE_ACT_BLOCK;
    return (ce_act_rows){
        .f32 = take_floats(arena, rows, cols),
        .q = ce_arena_take(arena, ce_mul(rows, cols), sizeof(int8_t)),
        .scale = take_floats(arena, rows, n_blocks),
        .sums = ce_arena_take(arena, ce_mul(rows, n_blocks), sizeof(ce_act_sums)),
        .n_cols = n_cols,
        .quantized = n_cols % CE_ACT_BLOCK == 0,
    };
}

/* The most that any kernel's packing takes. */
static int pack_block_bytes(const ce_kernels *k) {
    int most = 0;
    for (int phase = 0; phase < CE_N_PHASES; phase++)
        for (int type = 0; type < CE_MAX_TYPE; type++) {
            const ce_packing *packing = k->matmul[phase][type].packing;
            if (packing != NULL && packing->block_bytes > most)
                most = packing->block_bytes;
        }
    return most;
}

void ce_scratch_lay_out(ce_scratch *s, ce_arena *arena, const ce_hparams *hp, int batch_rows,
                        int n_threads, const ce_kernels *kernels) {
    const uint64_t rows = (uint64_t)batch_rows, dim = (uint64_t)hp->dim;
    const uint64_t n_experts = hp->n_experts > 0 ? (uint64_t)hp->n_experts : 1;
    const uint64_t n_used = hp->n_experts > 0 ? (uint64_t)hp->n_experts_used : 1;
    const uint64_t pairs = rows * n_used;
    const uint64_t half_head = (uint64_t)hp->head_dim / 2;
    const uint64_t kv_cols = (uint64_t)hp->n_kv_heads * (uint64_t)hp->head_dim;
    const int q_cols = hp->n_heads * hp->head_dim;
    const int max_dim = hp->dim > q_cols ? hp->dim : q_cols;
    const int group = hp->n_heads / hp->n_kv_heads;
    const uint64_t attend_bytes = ce_attend_scratch(
        hp->head_dim, group > kernels->attend_queries ? group : kernels->attend_queries);
    const uint64_t n_splits = CE_SPLIT_ROWS * CE_MAX_SPLITS;
    /* Each expert's last rows may not fill a group. Matrices that share an input may each want it
     * packed in their own way; they have max_dim columns. */
    const uint64_t pack_groups = pairs / CE_PACK_TOKENS + n_experts;
    const int shared_cols = CE_SHARED_INPUT_JOBS * max_dim;
    const int pack_cols = shared_cols > hp->ffn_dim ? shared_cols : hp->ffn_dim;
    const uint64_t pack_bytes =
        (uint64_t)(pack_cols / CE_ACT_BLOCK) * (uint64_t)pack_block_bytes(kernels);
    *s = (ce_scratch){
        .id = take_ints(arena, rows),
        .item = take_ints(arena, rows),
        .position = take_ints(arena, rows),
        .rope_cos = take_floats(arena, rows, half_head),
        .rope_sin = take_floats(arena, rows, half_head),
        .x = take_floats(arena, rows, dim),
        .norm = take_acts(arena, rows, hp->dim),
        .q = take_floats(arena, rows, (uint64_t)q_cols),
        .k = take_floats(arena, rows, kv_cols),
        .v = take_floats(arena, rows, kv_cols),
        .heads = take_acts(arena, rows, q_cols),
        .attend_tasks =
            ce_arena_take(arena, rows > n_splits ? rows : n_splits, sizeof(ce_attend_task)),
        .attend_scratch = ce_arena_take(arena, (uint64_t)n_threads, attend_bytes),
        .attend_bytes = (size_t)attend_bytes,
        .split_out = take_floats(arena, n_splits, (uint64_t)q_cols),
        .split_log_sum = take_floats(arena, n_splits, (uint64_t)hp->n_heads),
        .proj = take_floats(arena, rows, dim),
        .router_logits = take_floats(arena, rows, n_experts),
        .chosen = take_ints(arena, pairs),
        .chosen_weight = take_floats(arena, rows, n_used),
        .pair_of = take_ints(arena, pairs),
        .pair_row = take_ints(arena, pairs),
        .pair_item = take_ints(arena, pairs),
        .pair_position = take_ints(arena, pairs),
        .expert_begin = take_ints(arena, n_experts + 1),
        .expert_in = take_acts(arena, pairs, hp->dim),
        .hidden = take_acts(arena, pairs, hp->ffn_dim),
        .expert_out = take_floats(arena, pairs, dim),
        .up_tile = take_floats(arena, ce_mul((uint64_t)n_threads, pairs), CE_CHUNK_ROWS),
        .packed = ce_arena_take(arena, pack_groups, pack_bytes),
        .work = ce_arena_take(arena, (uint64_t)n_threads, CE_WORK_BYTES),
        .logits = take_floats(arena, CE_HEAD_ROWS, (uint64_t)hp->n_vocab),
    };
}
