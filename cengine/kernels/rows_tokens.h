/* Activations as the kernels of rows read them: a token as it is, and sixteen of them side by side.
 * Included after a tier's *_rows.h. */
#ifndef CE_ROWS_TOKENS_H
#define CE_ROWS_TOKENS_H

#include "kernels.h"
#include "rows_blocks.h"

/* What a block of one token's activations is besides its columns. */
typedef struct {
    float scale;
    ce_act_sums sums;
} block_terms;

INLINE block_terms terms_of_token(const ce_acts *x, int at) {
    return (block_terms){x->scale[at], x->sums[at]};
}

/* ---- Packed, for several tokens ---- */

/* A block of sixteen tokens, side by side. */
typedef struct {
    int8_t q[CE_PACK_TOKENS][CE_QK];
    float scale[CE_PACK_TOKENS];
    ce_act_sums sums[CE_PACK_TOKENS];
} packed_block;

static void pack_tokens(void *packed, const ce_acts *x, int n_tokens, int n_cols) {
    packed_block *to = packed;
    const int n_blocks = n_cols / CE_QK;
    if (n_tokens < CE_PACK_TOKENS) {
        memset(to, 0, n_blocks * sizeof *to);
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int b = 0; b < n_blocks; b++) {
            const size_t at = (size_t)t * n_blocks + b;
            memcpy(to[b].q[t], x->q + at * CE_QK, CE_QK);
            to[b].scale[t] = x->scale[at];
            to[b].sums[t] = x->sums[at];
        }
    }
}

static const ce_packing token_packing = {
    .min_tokens = 2, .block_bytes = sizeof(packed_block), .pack = pack_tokens};

/* ---- Of a block ---- */

/* A block of activations of up to TILE tokens. */
typedef struct {
    const int8_t *q; /* 32 columns of token t at q + 32 * t */
    block_terms terms[TILE];
} block_tokens;

/* Block `at` of one token. */
INLINE block_tokens block_of_token(const ce_acts *x, int at) {
    return (block_tokens){.q = x->q + at * CE_QK, .terms = {terms_of_token(x, at)}};
}

/* n_tokens from t on. */
INLINE block_tokens tokens_of_packed(const packed_block *x, int t, int n_tokens) {
    block_tokens tokens = {.q = x->q[t]};
    for (int j = 0; j < n_tokens; j++) {
        tokens.terms[j] = (block_terms){x->scale[t + j], x->sums[t + j]};
    }
    return tokens;
}

#endif
