/* RMSNorm and SiLU in vectors of any width: included by the file that is compiled for one, after
 * its header of lanes. */
#ifndef CE_LANES_OPS_H
#define CE_LANES_OPS_H

#include <math.h>

/* The sum in the order of the float matmuls: lane j takes elements j, j + LANES ... */
static float sum_of_squares(const float *x, int n) {
    lanes sum = splat(0.0f);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        const lanes v = load(x + i);
        sum = fma_lanes(v, v, sum);
    }
    if (i < n) {
        const lanes v = load_first(x + i, n - i);
        sum = fma_lanes(v, v, sum);
    }
    return sum_lanes(sum);
}

static void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    const float scale = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(y + i, multiply(multiply(load(x + i), splat(scale)), load(w + i)));
    }
    for (; i < n; i++) {
        y[i] = (x[i] * scale) * w[i];
    }
}

/* exp(x) = 2^n exp(r) with n = rint(x / ln 2) and r = x - n ln 2, ln 2 in two parts (Cody and
 * Waite), |r| <= 0.35; exp(r) by its Taylor series to r^7 (truncation below 6e-9). Within 2 ulp
 * where the result is normal; the scaling by 2^n in two steps reaches subnormals, 0 and infinity. A
 * NaN stays. */
INLINE lanes exp_lanes(lanes x) {
    static const float inverse_factorial[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                              1.0f / 6,    1.0f / 2,   1.0f,       1.0f};
    x = smaller(splat(89.0f), larger(splat(-104.0f), x));
    const lanes n = round_lanes(multiply(x, splat(0x1.715476p+0f)));
    lanes r = fma_lanes(n, splat(-0x1.62e400p-1f), x);
    r = fma_lanes(n, splat(-0x1.7f7d1cp-20f), r);
    lanes p = splat(inverse_factorial[0]);
    for (int i = 1; i < 8; i++) {
        p = fma_lanes(p, r, splat(inverse_factorial[i]));
    }
    return scale_by_power(p, n);
}

INLINE lanes silu_mul_lanes(lanes gate, lanes up) {
    const lanes e = exp_lanes(subtract(splat(0.0f), gate));
    return multiply(divide(gate, add(splat(1.0f), e)), up);
}

static void silu_mul(float *gate, const float *up, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(gate + i, silu_mul_lanes(load(gate + i), load(up + i)));
    }
    if (i < n) {
        const int rest = n - i;
        store_first(gate + i, silu_mul_lanes(load_first(gate + i, rest), load_first(up + i, rest)),
                    rest);
    }
}

#endif
