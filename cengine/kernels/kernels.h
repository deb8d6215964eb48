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
enum { CE_ATTN_TILE = 64, CE_ATTN_WIDE_TILE = 256 };

/* Tokens that are packed together, see ce_packing. */
enum { CE_PACK_TOKENS = 16 };

/* Memory of the calling thread's own, at a multiple of 64, that a matmul may overwrite. */
enum { CE_WORK_BYTES = 320 * 1024 };

/* See read() below. */
enum { CE_READ_BYTES = 512 };

/* The sums of a block's q, for types with a min, an offset or scales of 16 columns. */
typedef struct {
    int16_t half[2]; /* 16 columns each */
    float scaled;    /* the scale times that of all */
} ce_act_sums;

static inline ce_act_sums ce_act_sums_of(int32_t low, int32_t high, float scale) {
    return (ce_act_sums){{(int16_t)low, (int16_t)high}, scale * (float)(low + high)};
}

/* The inputs of one matmul: n_tokens contiguous rows of n_cols, as floats (for the weight types
 * F32, F16, BF16) or, for the block types, as int8 with a scale per 32 columns or as the kernel's
 * packing says. The unused forms are NULL. */
typedef struct {
    const float *f32;        /* [n_tokens][n_cols] */
    const int8_t *q;         /* [n_tokens][n_cols], in -127 ... 127 */
    const float *scale;      /* [n_tokens][n_cols / 32]; x is about scale * q */
    const ce_act_sums *sums; /* [n_tokens][n_cols / 32] */
    const void *packed; /* [n_tokens / 16, rounded up][n_cols / 32][block_bytes of the packing] */
} ce_acts;

/* From a token on; x has floats and int8, and is not packed. */
static inline ce_acts ce_acts_from(const ce_acts *x, int64_t token, int n_cols) {
    const int64_t n_blocks = n_cols / CE_ACT_BLOCK;
    return (ce_acts){.f32 = x->f32 + token * n_cols,
                     .q = x->q + token * n_cols,
                     .scale = x->scale + token * n_blocks,
                     .sums = x->sums + token * n_blocks};
}

/* y[t * y_stride + r] = dot(w row r, x row t) for r < n_rows, t < n_tokens.
 * w: n_rows consecutive rows of w_row_bytes bytes; work: CE_WORK_BYTES. */
typedef void ce_matmul_fn(float *y, size_t y_stride, const void *w, size_t w_row_bytes, int n_rows,
                          const ce_acts *x, int n_tokens, int n_cols, void *work);

/* How a kernel wants its inputs, which are packed once for all rows of a matrix. */
typedef struct {
    int min_tokens;  /* of fewer, the kernel reads x as it is; else x.packed, and nothing else */
    int block_bytes; /* of CE_PACK_TOKENS tokens times 32 columns, packed */
    bool from_f32;   /* pack() reads x.f32; else x.q, x.scale and x.sums */
    /* Packs n_tokens (at most CE_PACK_TOKENS) rows of n_cols; missing rows are zeros. */
    void (*pack)(void *packed, const ce_acts *x, int n_tokens, int n_cols);
} ce_packing;

typedef struct {
    const char *name; /* "q4_K/avx2/prompt": type, tier that it comes from, phase */
    ce_matmul_fn *run;
    const ce_packing *packing; /* NULL: it reads x as it is */
} ce_matmul_kernel;

/* Elements of one type to floats. */
typedef void ce_dequantize_fn(float *dst, const void *src, int64_t n);

/* Queries that share one KV head, and the part of its cache that they are to look at. Row r stands
 * at `position + r` and sees, of the positions [begin, end), those that are not after its own and,
 * if there is a window, its own and the window - 1 before it: one at least. */
typedef struct {
    const float
        *q;     /* [n_rows][row_stride]; a row: n_heads heads of head_dim, one after the other */
    float *out; /* likewise: sum of 2^score * v over the sum of 2^score */
    float *log_sum; /* [n_rows][n_heads]: log2 of the sum of 2^score, or NULL */
    size_t row_stride;
    const void *k, *v;         /* position p: head_dim elements at p * kv_row_bytes */
    ce_dequantize_fn *kv_type; /* what makes floats of them */
    size_t kv_row_bytes;
    int n_rows, n_heads, head_dim;
    int position, begin, end;
    int window;    /* 0: none */
    float scale;   /* score = scale * (q . k) */
    void *scratch; /* ce_attend_scratch() bytes, aligned to a cache line */
} ce_queries;

/* The positions [begin, end) that a row sees. */
typedef struct {
    int begin, end;
} ce_seen;

static inline ce_seen ce_seen_by(const ce_queries *a, int row) {
    const int after = a->position + row + 1, first = a->window > 0 ? after - a->window : 0;
    return (ce_seen){.begin = first > a->begin ? first : a->begin,
                     .end = after < a->end ? after : a->end};
}

/* Attention in tiles of positions with an online softmax. What a query gets does not depend on the
 * rows and heads beside it. */
typedef void ce_attend_fn(const ce_queries *queries);

/* Enough for the kernels of any tier. They hold, of each query, q and the sum so far, and a tile of
 * keys and values; and they count columns in whole vectors and queries in whole blocks. */
static inline uint64_t ce_attend_scratch(int head_dim, int n_queries) {
    const uint64_t columns = ((uint64_t)head_dim + 31) / 32 * 32;
    const uint64_t queries = ((uint64_t)n_queries + 31) / 32 * 32;
    const uint64_t tile = (CE_ATTN_WIDE_TILE + 64) * columns + CE_ATTN_WIDE_TILE * 64;
    return (queries * (2 * columns + 64) + tile) * sizeof(float);
}

/* How fast multiplications can possibly go: those that a prompt's matmuls rest on, and nothing
 * else. */
typedef struct {
    const char *instruction;
    int64_t n_products; /* of one round */
    void (*run)(int64_t n_rounds);
} ce_peak;

typedef struct ce_kernels {
    const char *tier;
    /* Indexed by phase and ce_type; run is NULL where a type has no kernel. */
    ce_matmul_kernel matmul[CE_N_PHASES][CE_MAX_TYPE];
    /* The same for weights that lie as repack.h says: the same bytes come out. They take whole
     * groups of rows. */
    ce_matmul_kernel repacked[CE_N_PHASES][CE_MAX_TYPE];
    /* Row of n elements at src to floats; indexed by ce_type. Bit-equal in every tier. */
    ce_dequantize_fn *dequantize[CE_MAX_TYPE];
    /* Rows of floats to blocks, see ce_quantize. NULL for the types that have no quantizer;
     * bit-equal in every tier. */
    void (*quantize[CE_MAX_TYPE])(void *dst, const float *x, const float *importance,
                                  int64_t n_rows, int64_t n_cols);
    /* One row of n columns (a multiple of 32) to int8: scale = max|x| / 127 (0 for a block of
     * zeros), q = round-half-even(x * (127 / max|x|)). Bit-equal in every tier. A NaN or infinity
     * makes scale NaN, so that it shows in the result. */
    void (*quantize_act)(int8_t *q, float *scale, ce_act_sums *sums, const float *x, int n);
    /* Floats to the KV cache's type. Bit-equal in every tier. */
    void (*f32_to_f16)(uint16_t *dst, const float *src, int n);
    /* Indexed by phase and the type of the KV cache: F32, F16 or Q8_0. A generated token attends
     * one row at a time; a prompt's rows may come together, best so that there are attend_queries
     * rows times heads. */
    ce_attend_fn *attend[CE_N_PHASES][CE_MAX_TYPE];
    int attend_queries;
    /* y = x / sqrt(mean(x^2) + eps) * w, sum in float32 (arXiv:1910.07467). */
    void (*rmsnorm)(float *y, const float *x, const float *w, int n, float eps);
    /* gate[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *gate, const float *up, int n);
    /* Loads n_bytes, a multiple of CE_READ_BYTES, with the widest loads, and does nothing else. */
    void (*read)(const void *data, size_t n_bytes);
    ce_peak peak;
} ce_kernels;

void ce_kernels_generic(ce_kernels *k);
#if defined(__x86_64__)
void ce_kernels_avx2(ce_kernels *k);
void ce_kernels_avxvnni(ce_kernels *k);
void ce_kernels_avx512vnni(ce_kernels *k);
void ce_kernels_amx(ce_kernels *k);
#elif defined(__aarch64__)
void ce_kernels_neon(ce_kernels *k);
void ce_kernels_i8mm(ce_kernels *k);
#endif

#endif
