/* The matmul kernels of every tier against the definition of their types, computed in double, and
 * against themselves: a result may not depend on how the work was cut. */
#include "check.h"
#include "generic_blocks.h"
#include "generic_blocks_iq.h"
#include "int8_spans.h"
#include "repack.h"

enum {
    MAX_ROWS = 35,
    MAX_TOKENS = 72,
    TAIL_TOKENS = 17,
    MAX_COLS = 1024,
    /* Beyond the blocks of rows and tokens that any kernel works on at once. */
    LARGE_ROWS = 140,
    LARGE_TOKENS = 530,
    LARGE_COLS = 256,
    MAX_X = LARGE_TOKENS * LARGE_COLS,
    MAX_Y = LARGE_TOKENS * (LARGE_ROWS + 3)
};

typedef struct {
    ce_type type;
    const char *name;
    unpack_fn *unpack; /* NULL: a float type */
    int block_cols;
    int n_halves; /* scales and mins in a block that are half floats, and where they are */
    int half_at[2];
} weight_type;

static const weight_type types[] = {
    {CE_TYPE_F32, "f32", NULL, 1, 0, {0}},
    {CE_TYPE_F16, "f16", NULL, 1, 0, {0}},
    {CE_TYPE_BF16, "bf16", NULL, 1, 0, {0}},
    {CE_TYPE_Q4_0, "q4_0", unpack_q4_0, CE_QK, 1, {0}},
    {CE_TYPE_Q4_1, "q4_1", unpack_q4_1, CE_QK, 2, {0, 2}},
    {CE_TYPE_Q5_0, "q5_0", unpack_q5_0, CE_QK, 1, {0}},
    {CE_TYPE_Q5_1, "q5_1", unpack_q5_1, CE_QK, 2, {0, 2}},
    {CE_TYPE_Q8_0, "q8_0", unpack_q8_0, CE_QK, 1, {0}},
    {CE_TYPE_Q2_K, "q2_K", unpack_q2_K, CE_QK_K, 2, {80, 82}},
    {CE_TYPE_Q3_K, "q3_K", unpack_q3_K, CE_QK_K, 1, {108}},
    {CE_TYPE_Q4_K, "q4_K", unpack_q4_K, CE_QK_K, 2, {0, 2}},
    {CE_TYPE_Q5_K, "q5_K", unpack_q5_K, CE_QK_K, 2, {0, 2}},
    {CE_TYPE_Q6_K, "q6_K", unpack_q6_K, CE_QK_K, 1, {208}},
    {CE_TYPE_IQ4_NL, "iq4_nl", unpack_iq4_nl, CE_QK, 1, {0}},
    {CE_TYPE_IQ4_XS, "iq4_xs", unpack_iq4_xs, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ3_XXS, "iq3_xxs", unpack_iq3_xxs, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ3_S, "iq3_s", unpack_iq3_s, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ2_XXS, "iq2_xxs", unpack_iq2_xxs, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ2_XS, "iq2_xs", unpack_iq2_xs, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ2_S, "iq2_s", unpack_iq2_s, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ1_S, "iq1_s", unpack_iq1_s, CE_QK_K, 1, {0}},
    {CE_TYPE_IQ1_M, "iq1_m", unpack_iq1_m, CE_QK_K, 0, {0}},
};

enum { N_TYPES = sizeof types / sizeof types[0] };

/* ---- Weights ---- */

/* How the numbers are drawn. UNIT: block scales of 1 and one block of activations that is not zero,
 * so that every result is a number of eighths below 2^24, exact in any order of summation. */
typedef enum { ORDINARY, EXTREME, UNIT } regime;

/* A half that is finite: about 1e-3, up to 65504, or 1. */
static uint16_t random_scale(regime r) {
    switch (r) {
    case ORDINARY:
        return f32_to_f16(1e-3f * random_float());
    case EXTREME:
        return (uint16_t)(random_bits() % 0x7c00 | (random_bits() & 0x8000));
    default:
        return 0x3c00;
    }
}

/* Random bytes; in the extreme regimes often a run of one extreme byte (0, -1, 127, -128). */
static void random_quants(uint8_t *p, size_t n, regime r) {
    static const uint8_t extremes[] = {0x00, 0xff, 0x7f, 0x80};
    random_bytes(p, n);
    if (r != ORDINARY && random_int(0, 1)) {
        memset(p, extremes[random_int(0, 3)], n);
    }
}

/* The nibbles of iq1_m's scale, from the lowest, are on top of its four words. */
static void set_iq1_m_scale(ce_block_iq1_m *block, uint16_t d) {
    for (int i = 0; i < 4; i++) {
        const int top = d >> (4 * i) & 15;
        block->scales[i] = (uint16_t)((block->scales[i] & 0xfff) | top << 12);
    }
}

static void random_block(uint8_t *p, const weight_type *type, regime r) {
    random_quants(p, (size_t)ce_row_bytes(type->type, type->block_cols), r);
    for (int i = 0; i < type->n_halves; i++) {
        const uint16_t half = random_scale(r);
        memcpy(p + type->half_at[i], &half, sizeof half);
    }
    if (type->type == CE_TYPE_IQ1_M) {
        set_iq1_m_scale((ce_block_iq1_m *)p, random_scale(r));
    }
}

static void random_weights(uint8_t *w, const weight_type *type, int64_t n_elements, regime r) {
    const size_t block_bytes = (size_t)ce_row_bytes(type->type, type->block_cols);
    for (int64_t i = 0; i < n_elements / type->block_cols; i++) {
        uint8_t *p = w + i * block_bytes;
        const float f = random_float();
        const uint16_t half = type->type == CE_TYPE_F16 ? f32_to_f16(f) : bits_from_float(f) >> 16;
        if (type->unpack != NULL) {
            random_block(p, type, r);
        } else if (type->type == CE_TYPE_F32) {
            memcpy(p, &f, sizeof f);
        } else {
            memcpy(p, &half, sizeof half);
        }
    }
}

/* ---- Activations ---- */

static float x_f32[MAX_X];
static int8_t x_q[MAX_X];
static float x_scale[MAX_X / CE_QK];
static ce_act_sums x_sums[MAX_X / CE_QK];

enum { MAX_PACK_BLOCK = 1024 }; /* bytes of a block of any packing */

static _Alignas(64) uint8_t x_packed[(MAX_X / CE_PACK_TOKENS + MAX_COLS) / CE_QK * MAX_PACK_BLOCK];
static size_t x_packed_bytes;
static _Alignas(64) uint8_t work[CE_WORK_BYTES];

static ce_kernels kernels; /* of the tier under test */

static void random_activation_block(int8_t *q, float *scale, ce_act_sums *sums, regime r,
                                    bool zero) {
    const int all = r == ORDINARY ? 0 : random_int(-1, 1); /* all of them +127 or -127, or not */
    *scale = r == UNIT ? 1.0f : 0.01f * random_float();
    int32_t half[2] = {0};
    for (int i = 0; i < CE_QK; i++) {
        q[i] = (int8_t)(zero ? 0 : all != 0 ? 127 * all : random_int(-127, 127));
        half[i / 16] += q[i];
    }
    *sums = ce_act_sums_of(half[0], half[1], *scale);
}

static void random_activations(int n_tokens, int n_cols, regime r) {
    random_floats(x_f32, (size_t)n_tokens * n_cols, 1.0f);
    const int n_blocks = n_cols / CE_QK;
    for (int t = 0; t < n_tokens; t++) {
        const int filled = random_int(0, n_blocks > 0 ? n_blocks - 1 : 0);
        for (int b = 0; b < n_blocks; b++) {
            const size_t i = (size_t)t * n_blocks + b;
            random_activation_block(x_q + i * CE_QK, x_scale + i, x_sums + i, r,
                                    r == UNIT && b != filled);
        }
    }
}

static const ce_acts all_tokens = {.f32 = x_f32, .q = x_q, .scale = x_scale, .sums = x_sums};

static bool packs(const ce_matmul_kernel *kernel, int n_tokens) {
    return kernel->packing != NULL && n_tokens >= kernel->packing->min_tokens;
}

/* Whether it rounds what it multiplies in its own way: to bf16, or the K types to int8. */
static bool rounds(const ce_matmul_kernel *kernel) {
    return kernel->packing != NULL && kernel->packing->from_f32;
}

static bool rounds_to_int8(const ce_matmul_kernel *kernel, const weight_type *type) {
    return rounds(kernel) && type->block_cols == CE_QK_K;
}

/* Packs n_tokens tokens from t0 on. */
static void pack_tokens(const ce_packing *packing, int t0, int n_tokens, int n_cols) {
    const size_t group_bytes = (size_t)(n_cols / CE_QK) * packing->block_bytes;
    x_packed_bytes = 0;
    for (int t = 0; t < n_tokens; t += CE_PACK_TOKENS) {
        const int n = n_tokens - t < CE_PACK_TOKENS ? n_tokens - t : CE_PACK_TOKENS;
        const ce_acts x = ce_acts_from(&all_tokens, t0 + t, n_cols);
        memset(x_packed + x_packed_bytes, 0xff, group_bytes);
        packing->pack(x_packed + x_packed_bytes, &x, n, n_cols);
        x_packed_bytes += group_bytes;
    }
}

/* The first n_tokens tokens in the form that the kernel wants. */
static ce_acts activations(const ce_matmul_kernel *kernel, const weight_type *type, int n_tokens,
                           int n_cols) {
    if (type->unpack == NULL) {
        return (ce_acts){.f32 = x_f32};
    }
    if (!packs(kernel, n_tokens)) {
        return (ce_acts){.q = x_q, .scale = x_scale, .sums = x_sums};
    }
    pack_tokens(kernel->packing, 0, n_tokens, n_cols);
    return (ce_acts){.packed = x_packed};
}

/* ---- The definition, in double ---- */

typedef struct {
    double dot;
    double magnitude; /* the sum of the absolute values of all that was added */
} reference;

static reference reference_blocks(unpack_fn *unpack, const void *row, int t, int n_cols) {
    reference y = {0, 0};
    const int n_blocks = n_cols / CE_QK;
    for (int b = 0; b < n_blocks; b++) {
        columns32 w;
        unpack(&w, row, b);
        const size_t block = (size_t)t * n_blocks + b;
        for (int i = 0; i < CE_QK; i++) {
            const double x = (double)x_scale[block] * x_q[block * CE_QK + i];
            const double scaled = (double)w.scale * w.mult[i / 16] * w.q[i];
            const double min = (double)w.min * w.min_mult[i / 16];
            y.dot += (scaled - min) * x;
            y.magnitude += (fabs(scaled) + fabs(min)) * fabs(x);
        }
    }
    return y;
}

static reference reference_floats(ce_type type, const void *row, int t, int n_cols) {
    reference y = {0, 0};
    for (int i = 0; i < n_cols; i++) {
        const double w = type == CE_TYPE_F32   ? load_f32(row, i)
                         : type == CE_TYPE_F16 ? load_f16(row, i)
                                               : load_bf16(row, i);
        const double product = w * x_f32[(size_t)t * n_cols + i];
        y.dot += product;
        y.magnitude += fabs(product);
    }
    return y;
}

/* How many units of 2^-24 * magnitude the error may be: one per rounding along a chain of sums, and
 * 2^17 for both factors of a product rounded to bf16. */
static double error_units(const ce_matmul_kernel *kernel, const weight_type *type, int n_cols) {
    if (rounds(kernel)) {
        return 0x1p17 + n_cols;
    }
    return type->unpack != NULL ? 4.0 + 4.0 * n_cols / CE_QK : 8.0 + n_cols / 8.0;
}

static void check_accuracy(const ce_matmul_kernel *kernel, const weight_type *type,
                           const uint8_t *w, const float *y, int n_rows, int n_tokens, int n_cols,
                           regime r) {
    const bool exact = r == UNIT && !rounds(kernel);
    const size_t row_bytes = (size_t)ce_row_bytes(type->type, n_cols);
    for (int t = 0; t < n_tokens; t++) {
        for (int row = 0; row < n_rows; row++) {
            const void *p = w + row * row_bytes;
            const reference want = type->unpack != NULL
                                       ? reference_blocks(type->unpack, p, t, n_cols)
                                       : reference_floats(type->type, p, t, n_cols);
            const double got = y[(size_t)t * n_rows + row];
            const double units = error_units(kernel, type, n_cols);
            const double bound = exact ? 0 : units * 0x1p-24 * want.magnitude + 0x1p-126;
            CHECK(fabs(got - want.dot) <= bound, "row %d token %d of %d columns: %.9g, not %.9g",
                  row, t, n_cols, got, want.dot);
        }
    }
}

/* ---- The definition in int8, see int8_spans.h ---- */

enum { MAX_SPANS = MAX_COLS / SPAN_COLS };

/* Results are the definition's to the last bit, and that is as near the truth as int8 can be. */
static void check_int8(const weight_type *type, const uint8_t *w, const float *y, int n_rows,
                       int n_tokens, int n_cols) {
    static row_span rows[MAX_ROWS][MAX_SPANS];
    static token_span tokens[MAX_TOKENS][MAX_SPANS];
    static double row_sums[MAX_ROWS][MAX_SPANS], token_sums[MAX_TOKENS][MAX_SPANS];
    const size_t row_bytes = (size_t)ce_row_bytes(type->type, n_cols);
    const int n_spans = n_cols / SPAN_COLS;
    const quant_range range = range_of(type->type);
    for (int s = 0; s < n_spans; s++) {
        for (int r = 0; r < n_rows; r++) {
            const void *row = w + r * row_bytes;
            requantize_row_span(&rows[r][s], type->unpack, range, row, s * SPAN_BLOCKS);
            row_sums[r][s] = magnitude_of_weights(type->unpack, row, s * SPAN_BLOCKS);
        }
        for (int t = 0; t < n_tokens; t++) {
            const float *x = x_f32 + (size_t)t * n_cols + s * SPAN_COLS;
            quantize_token_span(&tokens[t][s], x);
            token_sums[t][s] = magnitude_of_floats(x);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int r = 0; r < n_rows; r++) {
            float want = 0;
            double error = 0x1p-126;
            for (int s = 0; s < n_spans; s++) {
                const double dw = weight_error(&rows[r][s], range), dx = token_error(&tokens[t][s]);
                want = add_span_product(want, &rows[r][s], &tokens[t][s]);
                error += row_sums[r][s] * dx + token_sums[t][s] * dw + SPAN_COLS * dw * dx;
            }
            const float got = y[(size_t)t * n_rows + r];
            CHECK(got == want, "row %d token %d of %d columns: %.9g, not %.9g", r, t, n_cols, got,
                  want);
            const reference truth = reference_blocks(type->unpack, w + r * row_bytes, t, n_cols);
            CHECK(fabs(want - truth.dot) <= error + 0x1p-20 * truth.magnitude,
                  "row %d token %d of %d columns: %.9g, far from %.9g", r, t, n_cols, want,
                  truth.dot);
        }
    }
}

/* ---- One cut of the work, between guard pages ---- */

static guarded guard_w, guard_x, guard_scale, guard_sums, guard_y;

enum { FILL = 0x5a };

/* Runs rows [r0, r0 + n_rows) times tokens [t0, t0 + n_tokens), with every operand against a guard
 * page, and compares with the bits of the whole product, of whole_rows rows. */
static void check_cut(const ce_matmul_kernel *kernel, const weight_type *type, const uint8_t *w,
                      const float *whole, int whole_rows, int r0, int n_rows, int t0, int n_tokens,
                      int n_cols, placement where) {
    const size_t row_bytes = (size_t)ce_row_bytes(type->type, n_cols);
    const size_t n_x = (size_t)n_tokens * n_cols, x0 = (size_t)t0 * n_cols;
    const size_t stride = (size_t)n_rows + 3; /* a gap that has to stay as it is */
    const size_t y_bytes = ((n_tokens - 1) * stride + n_rows) * sizeof(float);
    const void *wg = guarded_copy(&guard_w, where, w + r0 * row_bytes, n_rows * row_bytes);
    float *y = guarded_place(&guard_y, where, y_bytes, FILL);
    ce_acts x = {0};
    if (type->unpack == NULL) {
        x.f32 = guarded_copy(&guard_x, where, x_f32 + x0, n_x * sizeof(float));
    } else if (packs(kernel, n_tokens)) {
        pack_tokens(kernel->packing, t0, n_tokens, n_cols);
        x.packed = guarded_copy(&guard_x, where, x_packed, x_packed_bytes);
    } else {
        const size_t b0 = x0 / CE_QK, n_b = n_x / CE_QK;
        x.q = guarded_copy(&guard_x, where, x_q + x0, n_x);
        x.scale = guarded_copy(&guard_scale, where, x_scale + b0, n_b * sizeof(float));
        x.sums = guarded_copy(&guard_sums, where, x_sums + b0, n_b * sizeof(ce_act_sums));
    }
    kernel->run(y, stride, wg, row_bytes, n_rows, &x, n_tokens, n_cols, work);
    bool same = true, clean = true;
    for (int t = 0; t < n_tokens; t++) {
        const float *want = whole + (size_t)(t0 + t) * whole_rows + r0;
        same = same && memcmp(y + t * stride, want, n_rows * sizeof(float)) == 0;
        for (size_t i = n_rows; i < stride && t < n_tokens - 1; i++) {
            clean = clean && bits_from_float(y[t * stride + i]) == 0x5a5a5a5a;
        }
    }
    CHECK(same, "rows %d + %d, tokens %d + %d, %d columns: bits depend on the cut", r0, n_rows, t0,
          n_tokens, n_cols);
    CHECK(clean, "%d rows, %d tokens, %d columns: wrote between rows of y", n_rows, n_tokens,
          n_cols);
}

/* ---- One kernel ---- */

static uint8_t weights[MAX_ROWS * MAX_COLS * sizeof(float)];
static float whole_product[MAX_Y];

/* The whole product is accurate; every cut of it has its bits. */
static void check_shape(const ce_matmul_kernel *kernel, const weight_type *type, int n_cols,
                        bool all_tails, regime r) {
    const size_t row_bytes = (size_t)ce_row_bytes(type->type, n_cols);
    random_weights(weights, type, (int64_t)MAX_ROWS * n_cols, r);
    random_activations(MAX_TOKENS, n_cols, r);
    for (int i = 0; rounds(kernel) && i < MAX_TOKENS * n_cols; i++) {
        x_f32[i] = x_scale[i / CE_QK] * x_q[i];
    }
    const ce_acts x = activations(kernel, type, MAX_TOKENS, n_cols);
    kernel->run(whole_product, MAX_ROWS, weights, row_bytes, MAX_ROWS, &x, MAX_TOKENS, n_cols,
                work);
    if (rounds_to_int8(kernel, type)) {
        check_int8(type, weights, whole_product, MAX_ROWS, MAX_TOKENS, n_cols);
    } else {
        check_accuracy(kernel, type, weights, whole_product, MAX_ROWS, MAX_TOKENS, n_cols, r);
    }
    for (int n_rows = 1; n_rows <= MAX_ROWS; n_rows++) {
        for (int n_tokens = 1; n_tokens <= TAIL_TOKENS; n_tokens++) {
            if (random_int(0, 99) < share_of(all_tails ? 100 : 5)) {
                check_cut(kernel, type, weights, whole_product, MAX_ROWS,
                          random_int(0, MAX_ROWS - n_rows), n_rows,
                          random_int(0, MAX_TOKENS - n_tokens), n_tokens, n_cols,
                          random_int(0, 1) ? AT_END : AT_BEGINNING);
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        const int n_rows = random_int(1, MAX_ROWS), n_tokens = random_int(TAIL_TOKENS, MAX_TOKENS);
        check_cut(kernel, type, weights, whole_product, MAX_ROWS, random_int(0, MAX_ROWS - n_rows),
                  n_rows, random_int(0, MAX_TOKENS - n_tokens), n_tokens, n_cols, i % 2);
    }
}

/* More rows and tokens than a kernel's blocks hold, cut at random. */
static void check_blocks(const ce_matmul_kernel *kernel, const weight_type *type) {
    const size_t row_bytes = (size_t)ce_row_bytes(type->type, LARGE_COLS);
    random_weights(weights, type, (int64_t)LARGE_ROWS * LARGE_COLS, ORDINARY);
    random_activations(LARGE_TOKENS, LARGE_COLS, ORDINARY);
    const ce_acts x = activations(kernel, type, LARGE_TOKENS, LARGE_COLS);
    kernel->run(whole_product, LARGE_ROWS, weights, row_bytes, LARGE_ROWS, &x, LARGE_TOKENS,
                LARGE_COLS, work);
    for (int i = 0; i < share_of(12); i++) {
        const int n_rows = random_int(1, LARGE_ROWS), n_tokens = random_int(1, LARGE_TOKENS);
        check_cut(kernel, type, weights, whole_product, LARGE_ROWS,
                  random_int(0, LARGE_ROWS - n_rows), n_rows,
                  random_int(0, LARGE_TOKENS - n_tokens), n_tokens, LARGE_COLS, i % 2);
    }
}

/* Weights and activations at odd addresses give the same bits. */
static void check_misaligned(const ce_matmul_kernel *kernel, const weight_type *type, int n_cols) {
    static uint8_t moved[sizeof weights + 1];
    static int8_t moved_q[sizeof x_q + 1];
    static float y[MAX_TOKENS * MAX_ROWS];
    memcpy(moved + 1, weights, sizeof weights);
    memcpy(moved_q + 1, x_q, sizeof x_q);
    ce_acts x = activations(kernel, type, MAX_TOKENS, n_cols);
    if (x.q != NULL) {
        x.q = moved_q + 1;
    }
    kernel->run(y, MAX_ROWS, moved + 1, (size_t)ce_row_bytes(type->type, n_cols), MAX_ROWS, &x,
                MAX_TOKENS, n_cols, work);
    CHECK(memcmp(y, whole_product, sizeof y) == 0, "%d columns at odd addresses", n_cols);
}

/* A NaN or infinity in one token's activations shows in that token's results, and in no other's. */
static void check_nan(const ce_matmul_kernel *kernel, const weight_type *type, int n_cols) {
    static float y[TAIL_TOKENS * MAX_ROWS];
    const int bad = random_int(0, TAIL_TOKENS - 1);
    x_f32[(size_t)bad * n_cols + random_int(0, n_cols - 1)] = random_int(0, 1) ? NAN : -INFINITY;
    x_scale[(size_t)bad * (n_cols / CE_QK) + random_int(0, n_cols / CE_QK - 1)] = NAN;
    const ce_acts x = activations(kernel, type, TAIL_TOKENS, n_cols);
    kernel->run(y, MAX_ROWS, weights, (size_t)ce_row_bytes(type->type, n_cols), MAX_ROWS, &x,
                TAIL_TOKENS, n_cols, work);
    for (int t = 0; t < TAIL_TOKENS; t++) {
        for (int r = 0; r < MAX_ROWS; r++) {
            const float got = y[t * MAX_ROWS + r], want = whole_product[t * MAX_ROWS + r];
            CHECK(t == bad ? !isfinite(got) : got == want,
                  "token %d: %g, with no number in token %d", t, got, bad);
        }
    }
}

static void check_kernel(const ce_matmul_kernel *kernel, const weight_type *type) {
    snprintf(check_subject, sizeof check_subject, "%s", kernel->name);
    if (type->unpack == NULL) {
        for (int n_cols = 1; n_cols <= 70; n_cols += 70 / share_of(70)) {
            check_shape(kernel, type, n_cols, n_cols % 10 == 0, ORDINARY);
        }
    }
    for (int n_cols = type->block_cols > 32 ? type->block_cols : 32; n_cols <= MAX_COLS;
         n_cols += type->block_cols > 32 ? type->block_cols : 160) {
        check_shape(kernel, type, n_cols, n_cols <= 320, ORDINARY);
        check_misaligned(kernel, type, n_cols);
        check_nan(kernel, type, n_cols);
    }
    check_blocks(kernel, type);
    if (type->unpack != NULL) {
        check_shape(kernel, type, 512, false, EXTREME);
        for (int i = 0; i < share_of(8); i++) {
            check_shape(kernel, type, 512, false, UNIT);
        }
    }
}

/* Repacked weights give the bits that their rows gave. */
static void check_repacked(const ce_matmul_kernel *kernel, const ce_matmul_kernel *of_rows,
                           const weight_type *type) {
    static float got[MAX_Y], want[MAX_Y];
    static uint8_t repacked[sizeof weights];
    const ce_repack_layout *layout = ce_repack_layout_of(type->type);
    snprintf(check_subject, sizeof check_subject, "%s", kernel->name);
    for (int i = 0; i < share_of(60); i++) {
        const int n_cols = CE_REPACK_COLS * random_int(1, MAX_COLS / CE_REPACK_COLS);
        const int n_rows = CE_REPACK_ROWS * random_int(1, 8);
        const int n_tokens = i % 3 == 0 ? 1 : random_int(1, MAX_TOKENS);
        const size_t row_bytes = (size_t)ce_row_bytes(type->type, n_cols);
        random_weights(weights, type, (int64_t)n_rows * n_cols, i % 4 == 0 ? EXTREME : ORDINARY);
        random_activations(n_tokens, n_cols, ORDINARY);
        for (int r = 0; r < n_rows; r += CE_REPACK_ROWS) {
            ce_repack_group(layout, repacked + r * row_bytes, weights + r * row_bytes, row_bytes,
                            n_cols);
        }
        const void *w =
            guarded_copy(&guard_w, i % 2 ? AT_END : AT_BEGINNING, repacked, n_rows * row_bytes);
        const ce_acts x = activations(kernel, type, n_tokens, n_cols);
        kernel->run(got, n_rows, w, row_bytes, n_rows, &x, n_tokens, n_cols, work);
        of_rows->run(want, n_rows, weights, row_bytes, n_rows, &x, n_tokens, n_cols, work);
        CHECK(memcmp(got, want, (size_t)n_tokens * n_rows * sizeof *got) == 0,
              "%d rows, %d tokens, %d columns: not the bits of the rows", n_rows, n_tokens, n_cols);
    }
}

/* Whether the kernel of the generated phase is the function of the prompt phase, done already. */
static bool same_as_prompt(const ce_kernels *k, int phase, const weight_type *type) {
    return phase != CE_PHASE_PROMPT &&
           k->matmul[phase][type->type].run == k->matmul[CE_PHASE_PROMPT][type->type].run;
}

int main(void) {
    report_crashes();
    guard_w = guarded_new(sizeof weights);
    guard_x = guarded_new(sizeof x_f32 + sizeof x_packed);
    guard_scale = guarded_new(sizeof x_scale);
    guard_sums = guarded_new(sizeof x_sums);
    guard_y = guarded_new(MAX_Y * sizeof(float));
    for (int tier = 0; ce_tier_name(tier) != NULL; tier++) {
        if (!tier_kernels(tier, &kernels)) {
            printf("skipped: %s\n", ce_tier_name(tier));
            continue;
        }
        for (int phase = 0; phase < CE_N_PHASES; phase++) {
            for (int i = 0; i < N_TYPES; i++) {
                const ce_type type = types[i].type;
                if (!same_as_prompt(&kernels, phase, &types[i])) {
                    check_kernel(&kernels.matmul[phase][type], &types[i]);
                }
                if (kernels.repacked[phase][type].run != NULL) {
                    check_repacked(&kernels.repacked[phase][type], &kernels.matmul[phase][type],
                                   &types[i]);
                }
            }
        }
    }
    return summary("check_kernels");
}
