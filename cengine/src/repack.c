#include "repack.h"

#include <string.h>

#include "blocks.h"
#include "cengine.h"

static const ce_repack_layout layouts[] = {
    [CE_TYPE_Q4_0] = {CE_QK,
                      sizeof(ce_block_q4_0),
                      {offsetof(ce_block_q4_0, d), 1},
                      {{offsetof(ce_block_q4_0, qs), 4}}},
    [CE_TYPE_Q4_1] = {CE_QK,
                      sizeof(ce_block_q4_1),
                      {offsetof(ce_block_q4_1, d), 2},
                      {{offsetof(ce_block_q4_1, qs), 4}}},
    [CE_TYPE_Q5_0] = {CE_QK,
                      sizeof(ce_block_q5_0),
                      {offsetof(ce_block_q5_0, d), 1},
                      {{offsetof(ce_block_q5_0, qh), 1}, {offsetof(ce_block_q5_0, qs), 4}}},
    [CE_TYPE_Q5_1] = {CE_QK,
                      sizeof(ce_block_q5_1),
                      {offsetof(ce_block_q5_1, d), 2},
                      {{offsetof(ce_block_q5_1, qh), 1}, {offsetof(ce_block_q5_1, qs), 4}}},
    [CE_TYPE_Q8_0] = {CE_QK,
                      sizeof(ce_block_q8_0),
                      {offsetof(ce_block_q8_0, d), 1},
                      {{offsetof(ce_block_q8_0, qs), 8}}},
    [CE_TYPE_Q2_K] = {CE_QK_K,
                      sizeof(ce_block_q2_K),
                      {offsetof(ce_block_q2_K, d), 2},
                      {{offsetof(ce_block_q2_K, scales), 4}, {offsetof(ce_block_q2_K, qs), 16}}},
    [CE_TYPE_Q3_K] = {CE_QK_K,
                      sizeof(ce_block_q3_K),
                      {offsetof(ce_block_q3_K, d), 1},
                      {{offsetof(ce_block_q3_K, scales), 3},
                       {offsetof(ce_block_q3_K, hmask), 8},
                       {offsetof(ce_block_q3_K, qs), 16}}},
    [CE_TYPE_Q4_K] = {CE_QK_K,
                      sizeof(ce_block_q4_K),
                      {offsetof(ce_block_q4_K, d), 2},
                      {{offsetof(ce_block_q4_K, scales), 3}, {offsetof(ce_block_q4_K, qs), 32}}},
    [CE_TYPE_Q5_K] = {CE_QK_K,
                      sizeof(ce_block_q5_K),
                      {offsetof(ce_block_q5_K, d), 2},
                      {{offsetof(ce_block_q5_K, scales), 3},
                       {offsetof(ce_block_q5_K, qh), 8},
                       {offsetof(ce_block_q5_K, qs), 32}}},
    [CE_TYPE_Q6_K] = {CE_QK_K,
                      sizeof(ce_block_q6_K),
                      {offsetof(ce_block_q6_K, d), 1},
                      {{offsetof(ce_block_q6_K, scales), 4},
                       {offsetof(ce_block_q6_K, ql), 32},
                       {offsetof(ce_block_q6_K, qh), 16}}},
    [CE_TYPE_IQ4_NL] = {CE_QK,
                        sizeof(ce_block_iq4_nl),
                        {offsetof(ce_block_iq4_nl, d), 1},
                        {{offsetof(ce_block_iq4_nl, qs), 4}}},
    [CE_TYPE_IQ4_XS] = {CE_QK_K,
                        sizeof(ce_block_iq4_xs),
                        {offsetof(ce_block_iq4_xs, d), 2}, /* and scales_h */
                        {{offsetof(ce_block_iq4_xs, scales_l), 1},
                         {offsetof(ce_block_iq4_xs, qs), 32}}},
};

const ce_repack_layout *ce_repack_layout_of(int type) {
    const int n = (int)(sizeof layouts / sizeof layouts[0]);
    return type >= 0 && type < n && layouts[type].block_cols != 0 ? &layouts[type] : NULL;
}

bool ce_can_repack(int type, int64_t n_rows, int64_t n_cols) {
    return ce_repack_layout_of(type) != NULL && n_rows > 0 && n_rows % CE_REPACK_ROWS == 0 &&
           n_cols > 0 && n_cols % CE_REPACK_COLS == 0;
}

typedef uint32_t words4 __attribute__((vector_size(16)));

/* Words 0 ... 3 of four rows, `stride` apart: the j-th of all four to dst + 64 j. */
static inline void gather_4x4(uint8_t *dst, const uint8_t *src, size_t stride) {
    words4 row[4];
    for (int r = 0; r < 4; r++)
        memcpy(&row[r], src + (size_t)r * stride, sizeof row[r]);
    const words4 low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    const words4 low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    const words4 high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    const words4 high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    const words4 out[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                           __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                           __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                           __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
    for (int j = 0; j < 4; j++)
        memcpy(dst + (size_t)j * CE_REPACK_ROWS * sizeof(uint32_t), &out[j], sizeof out[j]);
}

/* `size` bytes of each row, the rows `stride` apart. */
static inline uint8_t *gather(uint8_t *dst, const uint8_t *src, size_t stride, size_t size) {
    for (int r = 0; r < CE_REPACK_ROWS; r++) {
        memcpy(dst, src + r * stride, size);
        dst += size;
    }
    return dst;
}

static inline uint8_t *gather_words(uint8_t *dst, const uint8_t *src, size_t stride, int n) {
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int r = 0; r < CE_REPACK_ROWS; r += 4)
            gather_4x4(dst + (size_t)r * sizeof(uint32_t),
                       src + (size_t)r * stride + (size_t)i * sizeof(uint32_t), stride);
        dst += (size_t)4 * CE_REPACK_ROWS * sizeof(uint32_t);
    }
    for (; i < n; i++)
        dst = gather(dst, src + (size_t)i * sizeof(uint32_t), stride, sizeof(uint32_t));
    return dst;
}

static uint8_t *gather_halves_of_span(uint8_t *dst, const ce_repack_layout *l, const uint8_t *span,
                                      size_t row_bytes) {
    for (int b = 0; b < CE_REPACK_COLS / l->block_cols; b++)
        for (int i = 0; i < l->halves.n; i++)
            dst = gather(dst,
                         span + (size_t)b * l->block_bytes + l->halves.at +
                             (size_t)i * sizeof(uint16_t),
                         row_bytes, sizeof(uint16_t));
    return dst;
}

static uint8_t *gather_words_of_span(uint8_t *dst, const ce_repack_layout *l, const uint8_t *span,
                                     size_t row_bytes) {
    for (int i = 0; i < CE_MAX_REPACK_FIELDS && l->words[i].n > 0; i++)
        for (int b = 0; b < CE_REPACK_COLS / l->block_cols; b++)
            dst = gather_words(dst, span + (size_t)b * l->block_bytes + l->words[i].at, row_bytes,
                               l->words[i].n);
    return dst;
}

void ce_repack_group(const ce_repack_layout *l, void *dst, const void *src, size_t row_bytes,
                     int n_cols) {
    const size_t span_bytes = (size_t)(CE_REPACK_COLS / l->block_cols) * l->block_bytes;
    const int n_spans = n_cols / CE_REPACK_COLS;
    const int n_paired = ce_repack_paired_spans(l->halves.n * (CE_REPACK_COLS / l->block_cols));
    const uint8_t *from = src;
    uint8_t *to = dst;
    for (int first = 0; first < n_spans; first += n_paired) {
        const int left = n_spans - first, n = left < n_paired ? left : n_paired;
        for (int i = 0; i < n; i++)
            to = gather_halves_of_span(to, l, from + (size_t)i * span_bytes, row_bytes);
        for (int i = 0; i < n; i++)
            to = gather_words_of_span(to, l, from + (size_t)i * span_bytes, row_bytes);
        from += (size_t)n * span_bytes;
    }
}
