/* The tensors of a Mixtral (or dense Llama / Mistral), bound by role and checked. */
#ifndef CE_MODEL_H
#define CE_MODEL_H

#include "cengine.h"
#include "kernels.h"
#include "weights.h"

enum { CE_MAX_EXPERTS = 64 };

typedef struct {
    const float *attn_norm; /* [dim] */
    ce_weight q;            /* [n_heads * head_dim][dim] */
    ce_weight k;            /* [n_kv_heads * head_dim][dim] */
    ce_weight v;            /* [n_kv_heads * head_dim][dim] */
    ce_weight attn_output;  /* [dim][n_heads * head_dim] */
    const float *ffn_norm;  /* [dim] */
    ce_weight router;       /* [n_experts][dim]; absent when dense */
    ce_weight gate;         /* n_experts (dense: 1) of [ffn_dim][dim] */
    ce_weight up;           /* likewise */
    ce_weight down;         /* n_experts (dense: 1) of [dim][ffn_dim] */
} ce_layer;

typedef struct {
    ce_hparams hp;
    int n_experts;                /* 1 when dense */
    int n_used;                   /* 1 when dense */
    ce_weight token_embd;         /* [n_vocab][dim] */
    const float *output_norm;     /* [dim] */
    ce_weight output;             /* [n_vocab][dim]; the embedding where the file ties them */
    ce_layer *layers;             /* [n_layers] */
    ce_matrix *mats;              /* those of all weights */
    ce_matrix *unused_mats;       /* the next that no weight has */
    bool reads_int8[CE_N_PHASES]; /* whether a kernel of the phase wants its inputs quantized */
} ce_model;

/* Hyperparameters within the engine's bounds, so that no product of them overflows. */
ce_status ce_check_hparams(const ce_hparams *hp, ce_error *err);

/* Fills `model`; every shape, size and type is checked, nothing is copied. */
ce_status ce_model_bind(ce_model *model, const ce_hparams *hp, const ce_tensor *tensors,
                        size_t n_tensors, const ce_kernels *kernels, ce_error *err);
void ce_model_unbind(ce_model *model);

/* Where a role's weight is kept; NULL for the norms. */
ce_weight *ce_model_weight(ce_model *model, int role, int layer);

#endif
