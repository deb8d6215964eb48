/* The kernels that are no matmuls, in every tier: half precision, dequantization, activations to
 * int8, RMSNorm, SiLU; against definitions in double. With --bench, their speed. */
#include "check.h"
#include "generic_half.h"

#include <float.h>

static guarded guard[4]; /* one for each operand of a call */

static placement random_placement(void) { return random_int(0, 1) ? AT_END : AT_BEGINNING; }

static float *place_floats(int operand, const float *p, size_t n) {
    return guarded_copy(&guard[operand], random_placement(), p, n * sizeof *p);
}

/* ---- Half precision ---- */

/* The value of a half that is no NaN (IEEE 754 binary16); 2^16 for infinity, for rounding. */
static double half_value(uint16_t h) {
    const int exponent = (h >> 10) & 31, mantissa = h & 1023;
    const double magnitude =
        exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

static uint16_t to_half(const ce_kernels *k, float f) {
    uint16_t h;
    k->f32_to_f16(&h, &f, 1);
    return h;
}

/* Every half widens to its value and comes back. */
static void check_widening(const ce_kernels *k) {
    for (uint32_t h = 0; h < 65536; h++) {
        const uint16_t half = (uint16_t)h;
        float f;
        k->dequantize[CE_TYPE_F16](&f, &half, 1);
        if ((h & 0x7fff) > 0x7c00) {
            const uint32_t quiet = (h & 0x8000) << 16 | 0x7fc00000 | (h & 0x1ff) << 13;
            CHECK(bits_from_float(f) == quiet, "NaN %04x became %08x", h, bits_from_float(f));
            CHECK(to_half(k, f) == (h | 0x200), "NaN %04x came back as %04x", h, to_half(k, f));
        } else if ((h & 0x7fff) == 0x7c00) {
            CHECK(isinf(f) && (f < 0) == (h >> 15), "infinity %04x became %g", h, f);
            CHECK(to_half(k, f) == h, "infinity %04x", h);
        } else {
            CHECK(f == half_value(half) && !signbit(f) == !(h >> 15), "half %04x is %g", h, f);
            CHECK(to_half(k, f) == h, "half %04x came back as %04x", h, to_half(k, f));
        }
    }
}

/* Halfway between two neighbours the even one wins, and beside it the nearer one. */
static void check_rounding(const ce_kernels *k) {
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const float middle = (float)((half_value((uint16_t)h) + half_value((uint16_t)(h + 1))) / 2);
        const uint32_t even = h + (h & 1);
        CHECK(to_half(k, middle) == even, "tie above %04x", h);
        CHECK(to_half(k, -middle) == (even | 0x8000), "tie below -%04x", h);
        CHECK(to_half(k, nextafterf(middle, 0)) == h, "just below the tie above %04x", h);
        CHECK(to_half(k, nextafterf(middle, INFINITY)) == h + 1, "just above the tie at %04x", h);
    }
}

static void check_half_rows(const ce_kernels *k) {
    ce_kernels generic;
    ce_kernels_generic(&generic);
    for (int n = 1; n <= 70; n++) {
        float x[70];
        uint16_t want[70];
        for (int i = 0; i < n; i++) {
            x[i] = float_from_bits(random_bits());
        }
        uint16_t *got = guarded_place(&guard[1], random_placement(), n * sizeof *got, 0);
        k->f32_to_f16(got, place_floats(0, x, n), n);
        generic.f32_to_f16(want, x, n);
        CHECK(memcmp(got, want, n * sizeof *got) == 0, "row of %d differs from generic", n);
    }
}

/* ---- Dequantization: between guard pages, with the generic tier's bits ---- */

static void check_dequantize(const ce_kernels *k) {
    ce_kernels generic;
    ce_kernels_generic(&generic);
    for (int type = 0; type < CE_MAX_TYPE; type++) {
        for (int n = 1; n <= 1024 && generic.dequantize[type] != NULL; n++) {
            const size_t bytes = (size_t)ce_row_bytes(type, n);
            uint8_t src[4096];
            float want[1024];
            if (bytes == 0) {
                continue;
            }
            random_bytes(src, bytes);
            const void *guarded_src = guarded_copy(&guard[0], random_placement(), src, bytes);
            float *got = guarded_place(&guard[1], random_placement(), n * sizeof *got, 0);
            k->dequantize[type](got, guarded_src, n);
            generic.dequantize[type](want, src, n);
            CHECK(memcmp(got, want, n * sizeof *got) == 0, "type %d, %d columns", type, n);
        }
    }
}

/* ---- Activations to int8 ---- */

enum { ACT_BLOCKS = 9, ACT_COLS = ACT_BLOCKS * CE_ACT_BLOCK };

static void check_act_block(const float *x, const int8_t *q, float scale, ce_act_sums sums) {
    float amax = 0;
    int32_t half[2] = {0};
    bool finite = true;
    for (int i = 0; i < CE_ACT_BLOCK; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
        half[i / 16] += q[i];
        finite = finite && isfinite(x[i]);
    }
    const float scaled = scale * (float)(half[0] + half[1]);
    CHECK(sums.half[0] == half[0] && sums.half[1] == half[1] &&
              memcmp(&sums.scaled, &scaled, sizeof scaled) == 0,
          "sums (%d, %d) %g, not (%d, %d) %g", sums.half[0], sums.half[1], sums.scaled,
          (int)half[0], (int)half[1], scaled);
    if (!finite) {
        CHECK(isnan(scale) && half[0] == 0 && half[1] == 0,
              "a block with a NaN or infinity has scale %g", scale);
        return;
    }
    CHECK(scale == (127.0f / amax <= FLT_MAX ? amax / 127.0f : 0.0f), "scale %g of %g", scale,
          amax);
    for (int i = 0; i < CE_ACT_BLOCK; i++) {
        const double error = fabs(x[i] - (double)scale * q[i]);
        CHECK(q[i] >= -127 && error <= 0.50001 * scale + 4e-37, "%g became %d * %g", x[i], q[i],
              scale);
    }
}

/* Amplitudes from subnormal to the largest, whole zeros, ties; now and then a NaN or infinity. */
static void random_act_row(float *x) {
    static const float amplitudes[] = {1e-42f, 3e-37f, 4e-37f, 1e-20f, 1.0f, 127.0f, 3e38f, 0.0f};
    static const float specials[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int b = 0; b < ACT_BLOCKS; b++) {
        float *block = x + b * CE_ACT_BLOCK;
        random_floats(block, CE_ACT_BLOCK, amplitudes[random_int(0, 7)]);
        if (random_int(0, 3) == 0) { /* ties: quarters of an amplitude of 127 / 2 */
            for (int i = 0; i < CE_ACT_BLOCK; i++) {
                block[i] = 0.25f * (float)random_int(-254, 254);
            }
            block[random_int(0, 31)] = 63.5f;
        }
        if (random_int(0, 7) == 0) {
            block[random_int(0, 31)] = specials[random_int(0, 3)];
        }
    }
}

static void check_quantize_act(const ce_kernels *k) {
    ce_kernels generic;
    ce_kernels_generic(&generic);
    for (int run = 0; run < 2000; run++) {
        const int n = random_int(1, ACT_BLOCKS), n_cols = n * CE_ACT_BLOCK;
        float x[ACT_COLS], want_scale[ACT_BLOCKS];
        int8_t want[ACT_COLS];
        ce_act_sums want_sums[ACT_BLOCKS];
        random_act_row(x);
        int8_t *q = guarded_place(&guard[1], random_placement(), (size_t)n_cols, 0);
        float *scale = guarded_place(&guard[2], random_placement(), n * sizeof *scale, 0);
        ce_act_sums *sums = guarded_place(&guard[3], random_placement(), n * sizeof *sums, 0);
        k->quantize_act(q, scale, sums, place_floats(0, x, (size_t)n_cols), n_cols);
        generic.quantize_act(want, want_scale, want_sums, x, n_cols);
        CHECK(memcmp(q, want, (size_t)n_cols) == 0 &&
                  memcmp(scale, want_scale, n * sizeof *scale) == 0 &&
                  memcmp(sums, want_sums, n * sizeof *sums) == 0,
              "differs from generic");
        for (int b = 0; b < n; b++) {
            check_act_block(x + b * CE_ACT_BLOCK, q + b * CE_ACT_BLOCK, scale[b], sums[b]);
        }
    }
}

/* ---- RMSNorm, SiLU ---- */

static void check_rmsnorm(const ce_kernels *k, int n) {
    static float x[4096], w[4096];
    random_floats(x, n, 3.0f);
    random_floats(w, n, 2.0f);
    float *y = guarded_place(&guard[2], random_placement(), n * sizeof *y, 0);
    k->rmsnorm(y, place_floats(0, x, n), place_floats(1, w, n), n, 1e-5f);
    double squares = 0;
    for (int i = 0; i < n; i++) {
        squares += (double)x[i] * x[i];
    }
    for (int i = 0; i < n; i++) {
        const double want = x[i] / sqrt(squares / n + 1e-5f) * w[i];
        CHECK(fabs(y[i] - want) <= (8 + n / 16.0) * 0x1p-24 * fabs(want),
              "rmsnorm %d of %d: %g, %g", i, n, y[i], want);
    }
}

static void check_silu_mul(const ce_kernels *k, int n) {
    static float x[4096], up[4096];
    random_floats(x, n, random_int(0, 1) ? 4.0f : 120.0f);
    random_floats(up, n, 2.0f);
    x[random_int(0, n - 1)] = random_int(0, 1) ? -3e38f : 3e38f;
    float *gate = place_floats(0, x, n);
    k->silu_mul(gate, place_floats(1, up, n), n);
    for (int i = 0; i < n; i++) {
        const double want = x[i] / (1 + exp(-(double)x[i])) * up[i];
        CHECK(gate[i] == (float)want || fabs(gate[i] - want) <= 8 * 0x1p-24 * fabs(want) + 1e-36,
              "silu(%g) * %g: %.9g, not %.9g", x[i], up[i], gate[i], want);
    }
    x[n / 2] = NAN;
    gate = place_floats(0, x, n);
    k->silu_mul(gate, place_floats(1, up, n), n);
    CHECK(isnan(gate[n / 2]), "silu(NaN) is %g", gate[n / 2]);
}

/* ---- Speed ---- */

static void report(const ce_kernels *k, const char *name, double start, double work,
                   const char *unit) {
    printf("%-12s %-24s %8.2f %s\n", k->tier, name, 1e-9 * work / (seconds() - start), unit);
}

static void bench(const ce_kernels *k) {
    enum { N = 4096, RUNS = 2000 };
    static float x[N], y[N], scale[N / CE_ACT_BLOCK];
    static int8_t act[N];
    static ce_act_sums sums[N / CE_ACT_BLOCK];
    static uint16_t half[N];
    random_floats(x, N, 1.0f);
    double start = seconds();
    for (int i = 0; i < RUNS; i++) {
        k->quantize_act(act, scale, sums, x, N);
    }
    report(k, "quantize_act", start, (double)N * RUNS, "G elements/s");
    start = seconds();
    for (int i = 0; i < RUNS; i++) {
        k->f32_to_f16(half, x, N);
    }
    report(k, "f32_to_f16", start, (double)N * RUNS, "G elements/s");
    start = seconds();
    for (int i = 0; i < RUNS; i++) {
        k->rmsnorm(y, x, x, N, 1e-5f);
    }
    report(k, "rmsnorm", start, (double)N * RUNS, "G elements/s");
    start = seconds();
    for (int i = 0; i < RUNS; i++) {
        memcpy(y, x, sizeof y);
        k->silu_mul(y, x, N);
    }
    report(k, "silu_mul", start, (double)N * RUNS, "G elements/s");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*check)(const ce_kernels *k);
    } checks[] = {
        {"f16 to f32", check_widening},        {"f32_to_f16", check_rounding},
        {"f32_to_f16, rows", check_half_rows}, {"dequantize", check_dequantize},
        {"quantize_act", check_quantize_act},
    };
    report_crashes();
    for (int i = 0; i < 4; i++) {
        guard[i] = guarded_new(4096 * sizeof(float));
    }
    const bool measure = argc > 1 && strcmp(argv[1], "--bench") == 0;
    ce_kernels k;
    for (int tier = 0; ce_tier_name(tier) != NULL; tier++) {
        if (!tier_kernels(tier, &k)) {
            printf("skipped: %s\n", ce_tier_name(tier));
            continue;
        }
        if (measure) {
            bench(&k);
            continue;
        }
        for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
            snprintf(check_subject, sizeof check_subject, "%s/%s", checks[i].name, k.tier);
            checks[i].check(&k);
        }
        for (int n = 1; n <= 4096; n += n < 70 ? 1 : 671) {
            snprintf(check_subject, sizeof check_subject, "rmsnorm, silu_mul/%s", k.tier);
            check_rmsnorm(&k, n);
            check_silu_mul(&k, n);
        }
    }
    return measure ? 0 : summary("check_ops");
}
