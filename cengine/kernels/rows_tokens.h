/* Activations as the kernels of rows read them: a token as it is, and sixteen of them side by side.
 * Included after a tier's *_rows.h. */
#ifndef CE_ROWS_TOKENS_H
#define CE_ROWS_TOKENS_H

#include "kernels.h"
#include "rows_blocks.h"

/* A block of one token's activations, as the floats need it. */
typedef struct {
    float scale;
    float scaled_sum; /* scale * sum */
    int32_t half_sum[2];
} block_terms;

INLINE int32_t sum_16(const int8_t *q) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += q[i];
    }
    return sum;
}

/* One token; half_sum: where the type's scales or minimums are of 16 columns. */
typedef struct {
    const ce_acts *acts;
    const int32_t *half_sum;
} token_columns;

/* The sums of a token's columns, 16 by 16; where a type's scales are for as many. */
static void sum_halves_of_token(int32_t *half_sum, const int8_t *q, int n_cols) {
    const bytes ones = (bytes){0} + 1;
    for (int i = 0; i < n_cols; i += (int)sizeof ones) {
        bytes columns;
        memcpy(&columns, q + i, sizeof columns);
        const ints sums = dot_4((ints){0}, ones, columns, false);
        int32_t fours[ROWS];
        memcpy(fours, &sums, sizeof fours);
        for (int k = 0; k < ROWS; k += 4) {
            *half_sum++ = fours[k] + fours[k + 1] + fours[k + 2] + fours[k + 3];
        }
    }
}

INLINE block_terms terms_of_token(const block_format *f, const token_columns *x, int at) {
    const float scale = x->acts->scale[at];
    block_terms terms = {.scale = scale, .scaled_sum = scale * (float)x->acts->sum[at]};
    if (f->has_min_mult) {
        terms.half_sum[0] = x->half_sum[2 * at];
        terms.half_sum[1] = x->half_sum[2 * at + 1];
    }
    return terms;
}

/* ---- Packed, for several tokens ---- */

/* A block of sixteen tokens, side by side. */
typedef struct {
    int8_t q[CE_PACK_TOKENS][CE_QK];
    float scale[CE_PACK_TOKENS];
    float scaled_sum[CE_PACK_TOKENS]; /* scale * sum */
    int32_t sum[CE_PACK_TOKENS];
    int32_t half_sum[2][CE_PACK_TOKENS]; /* of 16 columns */
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
            const int8_t *q = x->q + at * CE_QK;
            memcpy(to[b].q[t], q, CE_QK);
            to[b].scale[t] = x->scale[at];
            to[b].scaled_sum[t] = x->scale[at] * (float)x->sum[at];
            to[b].sum[t] = x->sum[at];
            to[b].half_sum[0][t] = sum_16(q);
            to[b].half_sum[1][t] = sum_16(q + 16);
        }
    }
}

static const ce_packing token_packing = {
    .min_tokens = 2, .block_bytes = sizeof(packed_block), .pack = pack_tokens};

INLINE block_terms terms_of(const packed_block *x, int t) {
    return (block_terms){x->scale[t], x->scaled_sum[t], {x->half_sum[0][t], x->half_sum[1][t]}};
}

/* ---- Of a block ---- */

/* A block of activations of up to TILE tokens. */
typedef struct {
    const int8_t *q;       /* 32 columns of token t at q + 32 * t */
    const int32_t *sum[2]; /* see multiply_columns() */
    block_terms terms[TILE];
} block_tokens;

/* Block `at` of one token. */
INLINE block_tokens block_of_token(const block_format *f, const token_columns *x, int at) {
    const int32_t *half_sum = x->half_sum + 2 * at;
    return (block_tokens){.q = x->acts->q + at * CE_QK,
                          .sum = {f->has_mult ? half_sum : x->acts->sum + at, half_sum + 1},
                          .terms = {terms_of_token(f, x, at)}};
}

/* n_tokens from t on. */
INLINE block_tokens tokens_of_packed(const block_format *f, const packed_block *x, int t,
                                     int n_tokens) {
    block_tokens tokens = {
        .q = x->q[t], .sum = {f->has_mult ? x->half_sum[0] + t : x->sum + t, x->half_sum[1] + t}};
    for (int j = 0; j < n_tokens; j++) {
        tokens.terms[j] = terms_of(x, t + j);
    }
    return tokens;
}

#endif
