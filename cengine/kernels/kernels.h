/* The kernels' interface: what one instruction-set tier offers the operations in src/.
 *
 * ce_kernels_generic fills the struct completely; every other tier overlays the pointers that
 * it does better. The generic kernels are the specification: integer parts of the others are
 * equal to them, float parts within rounding.
 *
 * Accumulation order is a promise. For one (tier, type, phase) the value of y[t][r] depends on
 * weight row r and activation row t alone, never on n_rows, n_tokens, alignment or on how the
 * caller cut the work, so that threads, batches and prompt splits cannot change a bit.
 */
#ifndef CE_KERNELS_H
#define CE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cengine.h"

enum { CE_MAX_TYPE = 31, CE_N_PHASES = 2 };

/* Columns that share one scale in quantized activations. */
enum { CE_ACT_BLOCK = 32 };

/* Positions handled together in attention; tiles start at multiples of it, so that the
 * order of its online softmax is the same however a prompt was cut. */
enum { CE_ATTN_TILE = 64 };

/* Tokens that are packed together, see ce_packing. */
enum { CE_PACK_TOKENS = 16 };

/* Memory of the calling thread's own, at a multiple of 64, that a matmul may overwrite. */
enum { CE_WORK_BYTES = 320 * 1024 };

/* The inputs of one matmul: n_tokens contiguous rows of n_cols, as floats (for the weight types
 * F32, F16, BF16) or, for the block types, as int8 with a scale per 32 columns or as the kernel's
 * packing says. The unused forms are NULL. */
typedef struct {
    const float *f32;   /* [n_tokens][n_cols] */
    const int8_t *q;    /* [n_tokens][n_cols], in -127 ... 127 */
    const float *scale; /* [n_tokens][n_cols / 32]; x is about scale * q */
    const int32_t *sum; /* [n_tokens][n_cols / 32]; the sum of a block's q, for types with a min or
                           an offset */
    const void *packed; /* [n_tokens / 16, rounded up][n_cols / 32][block_bytes of the packing] */
} ce_acts;

/* y[t * y_stride + r] = dot(w row r, x row t) for r < n_rows, t < n_tokens.
 * w: n_rows consecutive rows of w_row_bytes bytes; work: CE_WORK_BYTES. */
typedef void ce_matmul_fn(float *y, size_t y_stride, const void *w, size_t w_row_bytes, int n_rows,
                          const ce_acts *x, int n_tokens, int n_cols, void *work);

/* How a kernel wants its inputs, which are packed once for all rows of a matrix. */
typedef struct {
    int min_tokens;  /* of fewer, the kernel reads x as it is; else x.packed, and nothing else */
    int block_bytes; /* of CE_PACK_TOKENS tokens times 32 columns, packed */
    bool from_f32;   /* pack() reads x.f32; else x.q, x.scale and x.sum */
    /* Packs n_tokens (at most CE_PACK_TOKENS) rows of n_cols; missing rows are zeros. */
    void (*pack)(void *packed, const ce_acts *x, int n_tokens, int n_cols);
} ce_packing;

typedef struct {
    const char *name; /* "q4_K/avx2/prompt": type, tier that it comes from, phase */
    ce_matmul_fn *run;
    const ce_packing *packing; /* NULL: it reads x as it is */
} ce_matmul_kernel;

/* Attention of one token's n_q query heads that share one KV head over the positions
 * [begin, end), in tiles of CE_ATTN_TILE at absolute positions with an online softmax.
 * q, out: [n_q][head_dim] floats; k, v: row p at k + p * kv_stride bytes, head_dim elements of the
 * cache's type; scores are scaled by `scale`. */
typedef void ce_attend_fn(float *out, const float *q, const void *k, const void *v,
                          size_t kv_stride, int begin, int end, int n_q, int head_dim, float scale);

typedef struct ce_kernels {
    const char *tier;
    /* Indexed by phase and ce_type; run is NULL where a type has no kernel. */
    ce_matmul_kernel matmul[CE_N_PHASES][CE_MAX_TYPE];
    /* Row of n elements at src to floats; indexed by ce_type. Bit-equal in every tier. */
    void (*dequantize[CE_MAX_TYPE])(float *dst, const void *src, int64_t n);
    /* Rows of floats to blocks, see ce_quantize. NULL for the types that have no quantizer;
     * bit-equal in every tier. */
    void (*quantize[CE_MAX_TYPE])(void *dst, const float *x, const float *importance,
                                  int64_t n_rows, int64_t n_cols);
    /* One row of n columns (a multiple of 32) to int8: scale = max|x| / 127 (0 for a block of
     * zeros), q = round-half-even(x * (127 / max|x|)). Bit-equal in every tier. A NaN or infinity
     * makes scale NaN, so that it shows in the result. */
    void (*quantize_act)(int8_t *q, float *scale, int32_t *sum, const float *x, int n);
    /* Floats to the KV cache's type. Bit-equal in every tier. */
    void (*f32_to_f16)(uint16_t *dst, const float *src, int n);
    ce_attend_fn *attend_f16;
    ce_attend_fn *attend_f32;
    /* y = x / sqrt(mean(x^2) + eps) * w, sum in float32 (arXiv:1910.07467). */
    void (*rmsnorm)(float *y, const float *x, const float *w, int n, float eps);
    /* gate[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *gate, const float *up, int n);
} ce_kernels;

void ce_kernels_generic(ce_kernels *k);
#if defined(__x86_64__)
void ce_kernels_avx2(ce_kernels *k);
void ce_kernels_avx512vnni(ce_kernels *k);
void ce_kernels_amx(ce_kernels *k);
#endif

#endif
