/* What amx_matmul_int8.c computes, in plain C, by the formulas at its head: every operation is
 * rounded as there, so that results are equal to the last bit. */
#ifndef CE_INT8_SPANS_H
#define CE_INT8_SPANS_H

#include <math.h>
#include <stdlib.h>

#include "generic_blocks.h"

enum {
    SPAN_COLS = 256,
    SPAN_BLOCKS = SPAN_COLS / CE_QK,
    PIECES = 2,
    PIECE_COLS = SPAN_COLS / PIECES
};

/* Of a row. */
typedef struct {
    int8_t q[SPAN_COLS];
    float scale;
} row_span;

/* Of a token. */
typedef struct {
    int8_t q[SPAN_COLS];
    float scale[PIECES];
} token_span;

/* The quants that a type has. */
typedef struct {
    int least, greatest;
} quant_range;

static quant_range range_of(ce_type type) {
    switch (type) {
    case CE_TYPE_Q4_K:
        return (quant_range){0, 15};
    case CE_TYPE_Q5_K:
        return (quant_range){0, 31};
    case CE_TYPE_Q6_K:
        return (quant_range){-32, 31};
    default:
        fprintf(stderr, "no range of quants for type %d\n", type);
        abort();
    }
}

static void quantize_token_span(token_span *to, const float *x) {
    for (int p = 0; p < PIECES; p++, x += PIECE_COLS) {
        float most = 0;
        for (int i = 0; i < PIECE_COLS; i++) {
            most = fmaxf(most, fabsf(x[i]));
        }
        const float inverse = most > 0 ? 127.0f / most : 0;
        for (int i = 0; i < PIECE_COLS; i++) {
            to->q[p * PIECE_COLS + i] = (int8_t)lrintf(x[i] * inverse);
        }
        to->scale[p] = most / 127.0f;
    }
}

/* What has to fit 127, for v to fit -128 ... 127. */
static float extent(float v) { return fmaxf(v, v * (-127.0f / 128.0f)); }

/* The span's first block of 32 columns is b0. */
static void requantize_row_span(row_span *to, unpack_fn *unpack, quant_range range, const void *row,
                                int b0) {
    columns32 w[SPAN_BLOCKS];
    float step[SPAN_BLOCKS][2], min[SPAN_BLOCKS][2], most = 0;
    for (int b = 0; b < SPAN_BLOCKS; b++) {
        unpack(&w[b], row, b0 + b);
        for (int h = 0; h < 2; h++) {
            step[b][h] = w[b].scale * (float)w[b].mult[h];
            min[b][h] = w[b].min * (float)w[b].min_mult[h];
            most = fmaxf(most, extent(fmaf(step[b][h], (float)range.least, -min[b][h])));
            most = fmaxf(most, extent(fmaf(step[b][h], (float)range.greatest, -min[b][h])));
        }
    }
    const float inverse = most > 0 ? 127.0f * 256.0f / most : 0;
    for (int i = 0; i < SPAN_COLS; i++) {
        const int b = i / CE_QK, h = i % CE_QK / 16;
        const int factor = (int)lrintf(step[b][h] * inverse);
        const int term = (int)lrintf(-min[b][h] * inverse) + 128;
        to->q[i] = (int8_t)((w[b].q[i % CE_QK] * factor + term) >> 8);
    }
    to->scale = most / 127.0f;
}

static float add_span_product(float y, const row_span *w, const token_span *x) {
    float products[PIECES];
    for (int p = 0; p < PIECES; p++) {
        int32_t sum = 0;
        for (int i = p * PIECE_COLS; i < (p + 1) * PIECE_COLS; i++) {
            sum += w->q[i] * x->q[i];
        }
        products[p] = (float)sum;
    }
    float sum = products[0] * x->scale[0];
    for (int p = 1; p < PIECES; p++) {
        sum = fmaf(products[p], x->scale[p], sum);
    }
    return fmaf(sum, w->scale, y);
}

/* Sums of the absolute values of a span. */
static double magnitude_of_floats(const float *x) {
    double sum = 0;
    for (int i = 0; i < SPAN_COLS; i++) {
        sum += fabs(x[i]);
    }
    return sum;
}

static double magnitude_of_weights(unpack_fn *unpack, const void *row, int b0) {
    double sum = 0;
    for (int b = b0; b < b0 + SPAN_BLOCKS; b++) {
        columns32 w;
        unpack(&w, row, b);
        for (int i = 0; i < CE_QK; i++) {
            sum += fabs((double)w.scale * w.mult[i / 16] * w.q[i] -
                        (double)w.min * w.min_mult[i / 16]);
        }
    }
    return sum;
}

/* The largest error of a weight of the span: rounded itself, by a factor that was rounded to a
 * 256th. */
static double weight_error(const row_span *w, quant_range range) {
    const int most = -range.least > range.greatest ? -range.least : range.greatest;
    return w->scale * (0.5 + (most + 1) * 0.5 / 256 + 0x1p-16);
}

/* That of an activation of the span. */
static double token_error(const token_span *x) {
    double most = 0;
    for (int p = 0; p < PIECES; p++) {
        most = fmax(most, x->scale[p]);
    }
    return most * (0.5 + 0x1p-16);
}

#endif
