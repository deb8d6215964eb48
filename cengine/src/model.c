#include "model.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "error.h"
#include "memory.h"

/* Far above any model in sight, far below what overflows an int. */
enum {
    MAX_LAYERS = 1024,
    MAX_DIM = 1 << 17,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 1024,
    MAX_VOCAB = 1 << 22
};

static bool in_range(int32_t x, int32_t lo, int32_t hi) { return x >= lo && x <= hi; }

ce_status ce_check_hparams(const ce_hparams *hp, ce_error *err) {
    const struct {
        const char *name;
        int32_t value, lo, hi;
    } bounds[] = {
        {"n_layers", hp->n_layers, 1, MAX_LAYERS},
        {"dim", hp->dim, 1, MAX_DIM},
        {"ffn_dim", hp->ffn_dim, 1, MAX_DIM},
        {"n_heads", hp->n_heads, 1, MAX_HEADS},
        {"n_kv_heads", hp->n_kv_heads, 1, hp->n_heads},
        {"head_dim", hp->head_dim, 2, MAX_HEAD_DIM},
        {"n_vocab", hp->n_vocab, 1, MAX_VOCAB},
        {"n_experts", hp->n_experts, 0, CE_MAX_EXPERTS},
        {"n_experts_used", hp->n_experts_used, hp->n_experts > 0 ? 1 : 0, hp->n_experts},
        {"sliding_window", hp->sliding_window, 0, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        if (!in_range(bounds[i].value, bounds[i].lo, bounds[i].hi))
            return ce_fail(err, CE_ERR_MODEL, "%s is %d, and must be %d ... %d", bounds[i].name,
                           bounds[i].value, bounds[i].lo, bounds[i].hi);
    if (hp->n_heads % hp->n_kv_heads != 0)
        return ce_fail(err, CE_ERR_MODEL, "%d heads cannot share %d KV heads evenly", hp->n_heads,
                       hp->n_kv_heads);
    if (hp->head_dim % 2 != 0)
        return ce_fail(err, CE_ERR_MODEL, "head_dim is %d; rotary embedding needs an even one",
                       hp->head_dim);
    if (!(isfinite(hp->norm_eps) && hp->norm_eps > 0))
        return ce_fail(err, CE_ERR_MODEL, "norm_eps is %g, and must be above 0", hp->norm_eps);
    if (!(isfinite(hp->rope_theta) && hp->rope_theta > 0))
        return ce_fail(err, CE_ERR_MODEL, "rope_theta is %g, and must be above 0", hp->rope_theta);
    return CE_OK;
}

/* ---- What each role must look like ---- */

typedef struct {
    const char *name;
    int64_t n_mats; /* 0: this model has none */
    int64_t n_rows;
    int64_t n_cols;
    bool per_layer;
    bool per_expert; /* the matrices may come one by one */
    bool is_norm;
    bool optional;
} role_shape;

static role_shape shape_of(int role, const ce_hparams *hp) {
    const int64_t dim = hp->dim, ffn = hp->ffn_dim, hd = hp->head_dim;
    const int64_t q_rows = hp->n_heads * hd, kv_rows = hp->n_kv_heads * hd;
    const bool moe = hp->n_experts > 0;
    const int64_t n_mats = moe ? hp->n_experts : 1;
    const role_shape shapes[CE_N_ROLES] = {
        [CE_TOKEN_EMBD] = {.name = "token_embd", 1, hp->n_vocab, dim},
        [CE_OUTPUT_NORM] = {.name = "output_norm", 1, 1, dim, .is_norm = true},
        [CE_OUTPUT] = {.name = "output", 1, hp->n_vocab, dim, .optional = true},
        [CE_ATTN_NORM] = {.name = "attn_norm", 1, 1, dim, .per_layer = true, .is_norm = true},
        [CE_ATTN_Q] = {.name = "attn_q", 1, q_rows, dim, .per_layer = true},
        [CE_ATTN_K] = {.name = "attn_k", 1, kv_rows, dim, .per_layer = true},
        [CE_ATTN_V] = {.name = "attn_v", 1, kv_rows, dim, .per_layer = true},
        [CE_ATTN_OUTPUT] = {.name = "attn_output", 1, dim, q_rows, .per_layer = true},
        [CE_FFN_NORM] = {.name = "ffn_norm", 1, 1, dim, .per_layer = true, .is_norm = true},
        [CE_FFN_GATE_INP] = {.name = "ffn_gate_inp", moe, hp->n_experts, dim, .per_layer = true},
        [CE_FFN_GATE] =
            {.name = "ffn_gate", n_mats, ffn, dim, .per_layer = true, .per_expert = moe},
        [CE_FFN_UP] = {.name = "ffn_up", n_mats, ffn, dim, .per_layer = true, .per_expert = moe},
        [CE_FFN_DOWN] =
            {.name = "ffn_down", n_mats, dim, ffn, .per_layer = true, .per_expert = moe},
    };
    return shapes[role];
}

ce_weight *ce_model_weight(ce_model *m, int role, int layer) {
    ce_layer *l = &m->layers[layer];
    ce_weight *const slots[CE_N_ROLES] = {
        [CE_TOKEN_EMBD] = &m->token_embd,
        [CE_OUTPUT] = &m->output,
        [CE_ATTN_Q] = &l->q,
        [CE_ATTN_K] = &l->k,
        [CE_ATTN_V] = &l->v,
        [CE_ATTN_OUTPUT] = &l->attn_output,
        [CE_FFN_GATE_INP] = &l->router,
        [CE_FFN_GATE] = &l->gate,
        [CE_FFN_UP] = &l->up,
        [CE_FFN_DOWN] = &l->down,
    };
    return slots[role];
}

static const float **norm_slot(ce_model *m, int role, int layer) {
    return role == CE_OUTPUT_NORM ? &m->output_norm
           : role == CE_ATTN_NORM ? &m->layers[layer].attn_norm
                                  : &m->layers[layer].ffn_norm;
}

static bool is_bound(ce_model *m, int role, int layer, int mat, bool is_norm) {
    if (is_norm)
        return *norm_slot(m, role, layer) != NULL;
    const ce_weight *weight = ce_model_weight(m, role, layer);
    return weight->mats != NULL && weight->mats[mat].data != NULL;
}

/* ---- Binding ---- */

/* Which of a weight's matrices a tensor holds. */
typedef struct {
    int first;
    int n;
} mat_range;

static mat_range mats_of(const ce_tensor *t, const role_shape *s) {
    if (t->expert == CE_ALL_EXPERTS)
        return (mat_range){.first = 0, .n = (int)s->n_mats};
    return (mat_range){.first = t->expert, .n = 1};
}

static ce_status check_extents(const ce_tensor *t, const role_shape *s, ce_error *err) {
    const int n_mats = mats_of(t, s).n;
    const int64_t want[3] = {s->n_cols, s->n_rows, n_mats};
    bool ok = t->n_dims >= 1 && t->n_dims <= 4;
    for (int i = 0; ok && i < 4; i++)
        ok = (i < t->n_dims ? t->ne[i] : 1) == (i < 3 ? want[i] : 1);
    if (!ok)
        return ce_fail(err, CE_ERR_MODEL,
                       "%s of layer %d: expected %lld x %lld x %lld elements, got another shape",
                       s->name, t->layer, (long long)want[0], (long long)want[1],
                       (long long)want[2]);
    uint64_t row_bytes = ce_row_bytes(t->type, s->n_cols);
    uint64_t want_bytes = ce_mul(row_bytes, ce_mul((uint64_t)s->n_rows, (uint64_t)n_mats));
    if (row_bytes == 0 || t->data == NULL || t->n_bytes != want_bytes)
        return ce_fail(err, CE_ERR_MODEL,
                       "%s of layer %d: type %d with rows of %lld takes %llu bytes, got %llu",
                       s->name, t->layer, t->type, (long long)s->n_cols,
                       (unsigned long long)want_bytes, (unsigned long long)t->n_bytes);
    if ((uintptr_t)t->data % sizeof(float) != 0)
        return ce_fail(err, CE_ERR_MODEL, "%s of layer %d: its data are not aligned to 4 bytes",
                       s->name, t->layer);
    return CE_OK;
}

/* Where the tensor belongs exists, and nothing is there yet. */
static ce_status check_place(ce_model *m, const ce_tensor *t, const role_shape *s, ce_error *err) {
    if (s->n_mats == 0)
        return ce_fail(err, CE_ERR_MODEL, "%s of layer %d has no place in a dense model", s->name,
                       t->layer);
    if (!in_range(t->layer, 0, s->per_layer ? m->hp.n_layers - 1 : 0))
        return ce_fail(err, CE_ERR_MODEL, "%s: layer %d does not exist", s->name, t->layer);
    if (!in_range(t->expert, CE_ALL_EXPERTS, s->per_expert ? m->hp.n_experts - 1 : CE_ALL_EXPERTS))
        return ce_fail(err, CE_ERR_MODEL, "%s of layer %d: expert %d does not exist", s->name,
                       t->layer, t->expert);
    const mat_range range = mats_of(t, s);
    for (int i = 0; i < range.n; i++)
        if (is_bound(m, t->role, t->layer, range.first + i, s->is_norm))
            return ce_fail(err, CE_ERR_MODEL, "%s of layer %d is given twice", s->name, t->layer);
    return CE_OK;
}

static ce_status bind_norm(ce_model *m, const ce_tensor *t, const role_shape *s, ce_error *err) {
    if (t->type != CE_TYPE_F32)
        return ce_fail(err, CE_ERR_MODEL, "%s of layer %d has type %d; norms must be F32", s->name,
                       t->layer, t->type);
    *norm_slot(m, t->role, t->layer) = t->data;
    return CE_OK;
}

/* Kernels of block types read int8, unless they pack floats. */
static bool reads_int8(int type, const ce_matmul_kernel *kernel) {
    const bool is_block_type = ce_row_bytes(type, 1) == 0;
    return is_block_type && !(kernel->packing != NULL && kernel->packing->from_f32);
}

/* Whether a pass of the phase has to quantize what it multiplies with the tensor. The router and
 * the head have the kernels for one row in either phase; the head's inputs are made in that phase
 * as well. */
static bool wants_int8(const ce_tensor *t, int phase, const ce_kernels *kernels) {
    const bool is_head = t->role == CE_OUTPUT || t->role == CE_TOKEN_EMBD;
    if (is_head && phase == CE_PHASE_PROMPT)
        return false;
    const int used = t->role == CE_FFN_GATE_INP ? CE_PHASE_GENERATED : phase;
    return reads_int8(t->type, &kernels->matmul[used][t->type]);
}

static ce_status bind_weight(ce_model *m, const ce_tensor *t, const role_shape *s,
                             const ce_kernels *kernels, ce_error *err) {
    if (!in_range(t->type, 0, CE_MAX_TYPE - 1) ||
        kernels->matmul[CE_PHASE_PROMPT][t->type].run == NULL)
        return ce_fail(err, CE_ERR_MODEL, "%s of layer %d has type %d, which has no kernel",
                       s->name, t->layer, t->type);
    for (int phase = 0; phase < CE_N_PHASES; phase++)
        m->reads_int8[phase] |= wants_int8(t, phase, kernels);
    ce_weight *weight = ce_model_weight(m, t->role, t->layer);
    if (weight->mats == NULL) {
        *weight = (ce_weight){.n_mats = (int)s->n_mats, .mats = m->unused_mats};
        m->unused_mats += s->n_mats;
    }
    const mat_range range = mats_of(t, s);
    const uint64_t row_bytes = ce_row_bytes(t->type, s->n_cols);
    for (int i = 0; i < range.n; i++)
        weight->mats[range.first + i] = (ce_matrix){
            .type = t->type,
            .n_rows = (int)s->n_rows,
            .n_cols = (int)s->n_cols,
            .row_bytes = row_bytes,
            .data = (const uint8_t *)t->data + (uint64_t)i * (uint64_t)s->n_rows * row_bytes,
        };
    return CE_OK;
}

static ce_status bind_tensor(ce_model *m, const ce_tensor *t, const ce_kernels *kernels,
                             ce_error *err) {
    if (!in_range(t->role, 0, CE_N_ROLES - 1))
        return ce_fail(err, CE_ERR_ARGUMENT, "tensor role %d does not exist", t->role);
    const role_shape s = shape_of(t->role, &m->hp);
    ce_status status = check_place(m, t, &s, err);
    if (status == CE_OK)
        status = check_extents(t, &s, err);
    if (status != CE_OK)
        return status;
    return s.is_norm ? bind_norm(m, t, &s, err) : bind_weight(m, t, &s, kernels, err);
}

static ce_status check_complete(ce_model *m, ce_error *err) {
    for (int role = 0; role < CE_N_ROLES; role++) {
        const role_shape s = shape_of(role, &m->hp);
        if (s.optional)
            continue;
        for (int layer = 0; layer < (s.per_layer ? m->hp.n_layers : 1); layer++)
            for (int mat = 0; mat < s.n_mats; mat++)
                if (!is_bound(m, role, layer, mat, s.is_norm))
                    return ce_fail(err, CE_ERR_MODEL, "%s of layer %d is missing%s", s.name, layer,
                                   mat > 0 ? " for some experts" : "");
    }
    return CE_OK;
}

/* How many matrices all weights have together. */
static uint64_t count_mats(const ce_hparams *hp) {
    uint64_t n = 0;
    for (int role = 0; role < CE_N_ROLES; role++) {
        const role_shape s = shape_of(role, hp);
        n += (uint64_t)s.n_mats * (uint64_t)(s.per_layer ? hp->n_layers : 1);
    }
    return n;
}

ce_status ce_model_bind(ce_model *model, const ce_hparams *hp, const ce_tensor *tensors,
                        size_t n_tensors, const ce_kernels *kernels, ce_error *err) {
    ce_status status = ce_check_hparams(hp, err);
    if (status != CE_OK)
        return status;
    *model = (ce_model){
        .hp = *hp,
        .n_experts = hp->n_experts > 0 ? hp->n_experts : 1,
        .n_used = hp->n_experts > 0 ? hp->n_experts_used : 1,
        .layers = ce_alloc_zeroed((uint64_t)hp->n_layers * sizeof(ce_layer)),
        .mats = ce_alloc_zeroed(count_mats(hp) * sizeof(ce_matrix)),
    };
    model->unused_mats = model->mats;
    if (model->layers == NULL || model->mats == NULL) {
        ce_model_unbind(model);
        return ce_fail(err, CE_ERR_MEMORY, "out of memory for %d layers", hp->n_layers);
    }
    for (size_t i = 0; i < n_tensors && status == CE_OK; i++)
        status = bind_tensor(model, &tensors[i], kernels, err);
    if (status == CE_OK)
        status = check_complete(model, err);
    if (status == CE_OK && model->output.mats == NULL)
        model->output = model->token_embd;
    if (status != CE_OK)
        ce_model_unbind(model);
    return status;
}

void ce_model_unbind(ce_model *model) {
    for (const ce_matrix *m = model->mats; m < model->unused_mats; m++)
        ce_free(m->own_copy);
    ce_free(model->layers);
    ce_free(model->mats);
    model->layers = NULL;
    model->mats = model->unused_mats = NULL;
}
