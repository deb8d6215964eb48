/* Quantization for the world outside. */
#include <math.h>

#include "dispatch.h"
#include "error.h"

static const float max_magnitude = 65504; /* of half precision, which the scales have */

static int64_t find_unusable(const float *v, int64_t n, float low) {
    for (int64_t i = 0; i < n; i++) {
        if (!(v[i] >= low && v[i] <= max_magnitude)) {
            return i;
        }
    }
    return -1;
}

/* Sums of (value - what the quantized row gives back)^2 and value^2. */
static void add_error(ce_quantize_error *sums, const ce_kernels *k, int32_t type, const void *rows,
                      const float *src, int64_t n_values) {
    enum { CHUNK = 256 }; /* a whole number of blocks of any type */
    float back[CHUNK];
    for (int64_t i = 0; i < n_values; i += CHUNK) {
        const int64_t n = n_values - i < CHUNK ? n_values - i : CHUNK;
        k->dequantize[type](back, (const char *)rows + ce_row_bytes(type, i), n);
        float error = 0, square = 0;
        for (int64_t c = 0; c < n; c++) {
            const float e = src[i + c] - back[c];
            error += e * e;
            square += src[i + c] * src[i + c];
        }
        sums->error += (double)error;
        sums->square += (double)square;
    }
}

ce_status ce_quantize(int32_t type, const float *src, int64_t n_rows, int64_t n_cols,
                      const float *importance, void *dst, ce_quantize_error *sums, ce_error *err) {
    ce_kernels k;
    const ce_status status = ce_select_kernels(NULL, &k, err);
    if (status != CE_OK) {
        return status;
    }
    if (n_rows < 0 || ce_row_bytes(type, n_cols) == 0 || k.quantize[type] == NULL) {
        return ce_fail(err, CE_ERR_ARGUMENT,
                       "cannot quantize rows of %lld to type %d: no quantizer, or not whole blocks",
                       (long long)n_cols, (int)type);
    }
    const int64_t bad = find_unusable(src, n_rows * n_cols, -max_magnitude);
    if (bad >= 0) {
        return ce_fail(err, CE_ERR_NUMERIC, "row %lld, column %lld: %g cannot be quantized",
                       (long long)(bad / n_cols), (long long)(bad % n_cols), (double)src[bad]);
    }
    const int64_t unimportant = importance == NULL ? -1 : find_unusable(importance, n_cols, 0);
    if (unimportant >= 0) {
        return ce_fail(err, CE_ERR_NUMERIC, "importance of column %lld: %g is not in 0 ... %g",
                       (long long)unimportant, (double)importance[unimportant],
                       (double)max_magnitude);
    }
    k.quantize[type](dst, src, importance, n_rows, n_cols);
    if (sums != NULL) {
        add_error(sums, &k, type, dst, src, n_rows * n_cols);
    }
    return ce_ok(err);
}
