/* The attention kernels of every tier, phase and type of KV cache: against the definition in
 * double, between guard pages, and with the same bits whatever rows and heads come together. With
 * --bench, their speed. */
#include "check.h"

#include <float.h>

enum { MAX_POSITIONS = 600, MAX_HEAD_DIM = 136, MAX_HEADS = 9, MAX_ROWS = 24, OPERANDS = 6 };

static guarded guard[OPERANDS]; /* one for each operand of a call */

static placement random_placement(void) { return random_int(0, 1) ? AT_END : AT_BEGINNING; }

static void *place(int operand, size_t bytes) {
    return guarded_place(&guard[operand], random_placement(), bytes, 0xff);
}

static void *place_copy(int operand, const void *p, size_t bytes) {
    return guarded_copy(&guard[operand], random_placement(), p, bytes);
}

static const ce_type kv_types[] = {CE_TYPE_F32, CE_TYPE_F16, CE_TYPE_Q8_0};

typedef struct {
    ce_type type;
    int n_rows, n_heads, head_dim, position, begin, end, window;
    float q[MAX_ROWS * MAX_HEADS * MAX_HEAD_DIM];
    char k_bytes[MAX_POSITIONS * MAX_HEAD_DIM * sizeof(float)];
    char v_bytes[MAX_POSITIONS * MAX_HEAD_DIM * sizeof(float)];
    float k[MAX_POSITIONS * MAX_HEAD_DIM], v[MAX_POSITIONS * MAX_HEAD_DIM]; /* what they hold */
} attention_case;

static int row_elements(const attention_case *c) { return c->n_heads * c->head_dim; }
static float scale_of(const attention_case *c) { return 1.4426950f / sqrtf((float)c->head_dim); }
static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

static int first_seen(const attention_case *c, int row) {
    const int after = c->position + row + 1;
    return c->window > 0 ? max_int(c->begin, after - c->window) : c->begin;
}

static int end_seen(const attention_case *c, int row) {
    return min_int(c->end, c->position + row + 1);
}

/* Writes x in the case's type, and puts what that holds back into x. */
static void fill_cache(const attention_case *c, char *bytes, float *x) {
    ce_kernels generic;
    ce_kernels_generic(&generic);
    const int n = MAX_POSITIONS * c->head_dim;
    random_floats(x, (size_t)n, 1.0f);
    if (c->type == CE_TYPE_F16) {
        generic.f32_to_f16((uint16_t *)(void *)bytes, x, n);
    } else if (c->type == CE_TYPE_Q8_0) {
        generic.quantize[CE_TYPE_Q8_0](bytes, x, NULL, MAX_POSITIONS, c->head_dim);
    } else {
        memcpy(bytes, x, (size_t)n * sizeof *x);
    }
    generic.dequantize[c->type](x, bytes, n);
}

/* Either rows that look at all they may see, or one row that looks at a part of it. */
static void random_case(attention_case *c, ce_type type, int max_rows, float amplitude) {
    static const int head_dims[] = {32, 64, 96, 128, 2, 6, 10, 30, 80, 136};
    c->type = type;
    c->head_dim = head_dims[random_int(0, type == CE_TYPE_Q8_0 ? 3 : 9)];
    c->n_heads = random_int(1, MAX_HEADS);
    c->n_rows = random_int(0, 3) ? random_int(1, max_rows) : 1;
    c->position = random_int(0, MAX_POSITIONS - c->n_rows);
    c->window = random_int(0, 2) ? 0 : random_int(1, 400);
    c->begin = 0;
    c->begin = first_seen(c, 0);
    c->end = c->position + c->n_rows;
    if (c->n_rows == 1 && random_int(0, 1)) {
        c->begin = random_int(c->begin, c->end - 1);
        c->end = random_int(c->begin + 1, c->end);
    }
    random_floats(c->q, (size_t)(c->n_rows * row_elements(c)), amplitude);
    fill_cache(c, c->k_bytes, c->k);
    fill_cache(c, c->v_bytes, c->v);
}

/* Runs rows [row, row + n_rows) with heads [head, head + n_heads), which see no more of the cache
 * than they need. out: [n_rows][n_heads][head_dim], log_sum: [n_rows][n_heads] */
static void run_case(const ce_kernels *k, ce_phase phase, const attention_case *c, int row,
                     int n_rows, int head, int n_heads, float *out, float *log_sum) {
    const size_t kv_row_bytes = (size_t)ce_row_bytes((int32_t)c->type, c->head_dim);
    const int begin = first_seen(c, row), end = end_seen(c, row + n_rows - 1);
    const size_t skip = (size_t)begin * kv_row_bytes, bytes = (size_t)(end - begin) * kv_row_bytes;
    const size_t first = (size_t)(row * row_elements(c) + head * c->head_dim);
    const size_t n_out = (size_t)(n_heads * c->head_dim);
    const size_t span = (size_t)((n_rows - 1) * row_elements(c)) + n_out;
    float *to = place(3, span * sizeof *to);
    float *sums = place(4, (size_t)(n_rows * n_heads) * sizeof *sums);
    const ce_queries queries = {
        .q = place_copy(2, c->q + first, span * sizeof *c->q),
        .out = to,
        .log_sum = sums,
        .row_stride = (size_t)row_elements(c),
        .k = (char *)place_copy(0, c->k_bytes + skip, bytes) - skip,
        .v = (char *)place_copy(1, c->v_bytes + skip, bytes) - skip,
        .kv_type = k->dequantize[c->type],
        .kv_row_bytes = kv_row_bytes,
        .n_rows = n_rows,
        .n_heads = n_heads,
        .head_dim = c->head_dim,
        .position = c->position + row,
        .begin = begin,
        .end = end,
        .window = c->window,
        .scale = scale_of(c),
        .scratch = place(5, (size_t)ce_attend_scratch(c->head_dim, n_rows * n_heads)),
    };
    k->attend[phase][c->type](&queries);
    for (int r = 0; r < n_rows; r++) {
        memcpy(out + r * n_out, to + r * row_elements(c), n_out * sizeof *out);
    }
    memcpy(log_sum, sums, (size_t)(n_rows * n_heads) * sizeof *sums);
}

/* Against the definition. `rounding` is that of the operands: products are off by twice it. */
static void check_head(const attention_case *c, int row, int head, double rounding,
                       const float *out, float log_sum) {
    static double weight[MAX_POSITIONS];
    const float *q = c->q + row * row_elements(c) + head * c->head_dim;
    const int begin = first_seen(c, row), end = end_seen(c, row);
    double max = -INFINITY, sum = 0, score_error = 0;
    for (int p = begin; p < end; p++) {
        double magnitude = 0;
        weight[p] = 0;
        for (int i = 0; i < c->head_dim; i++) {
            const double product = (double)scale_of(c) * q[i] * c->k[p * c->head_dim + i];
            weight[p] += product;
            magnitude += isfinite(product) ? fabs(product) : 0;
        }
        max = fmax(max, weight[p]);
        score_error = fmax(score_error, magnitude * ((c->head_dim + 4) * 0x1p-24 + 2 * rounding));
    }
    for (int p = begin; p < end; p++) {
        weight[p] = exp2(weight[p] - max);
        sum += weight[p];
    }
    const double units = 4 * score_error + (end - begin + 32) * 0x1p-24 + 4 * rounding;
    for (int i = 0; i < c->head_dim; i++) {
        double want = 0, magnitude = 0;
        for (int p = begin; p < end; p++) {
            want += weight[p] / sum * c->v[p * c->head_dim + i];
            magnitude += weight[p] / sum * fabs((double)c->v[p * c->head_dim + i]);
        }
        CHECK(fabs(out[i] - want) <= units * magnitude + 0x1p-126,
              "row %d of %d, head %d of %d, positions %d ... %d, column %d of %d: %.9g, not %.9g",
              row, c->n_rows, head, c->n_heads, begin, end, i, c->head_dim, out[i], want);
    }
    const double want = max + log2(sum);
    CHECK(fabs(log_sum - want) <= 2 * units + 0x1p-22 * fabs(want), "log2 of the sum: %g, not %g",
          log_sum, want);
}

/* A position that no query sees, whatever its other keys say. */
static void hide_position(attention_case *c) {
    const int first = first_seen(c, c->n_rows - 1), end = end_seen(c, 0);
    if (c->type == CE_TYPE_Q8_0 || end - first < 2) {
        return;
    }
    const int p = random_int(first, end - 1);
    c->k[p * c->head_dim] = -INFINITY;
    const size_t at = (size_t)p * (size_t)ce_row_bytes((int32_t)c->type, c->head_dim);
    if (c->type == CE_TYPE_F16) {
        memcpy(c->k_bytes + at, &(uint16_t){0xfc00}, sizeof(uint16_t));
    } else {
        memcpy(c->k_bytes + at, &c->k[p * c->head_dim], sizeof(float));
    }
    for (int i = 0; i < c->n_rows * c->n_heads; i++) {
        c->q[i * c->head_dim] = fabsf(c->q[i * c->head_dim]) + 0.1f;
    }
}

static void check_alone(const ce_kernels *k, ce_phase phase, const attention_case *c,
                        const float *out, const float *log_sum) {
    static float alone[MAX_HEAD_DIM];
    float alone_sum;
    for (int row = 0; row < c->n_rows; row++) {
        for (int head = 0; head < c->n_heads; head++) {
            const int i = row * c->n_heads + head;
            run_case(k, phase, c, row, 1, head, 1, alone, &alone_sum);
            CHECK(memcmp(alone, out + i * c->head_dim, (size_t)c->head_dim * sizeof *out) == 0 &&
                      memcmp(&alone_sum, log_sum + i, sizeof alone_sum) == 0,
                  "row %d of %d, head %d of %d depends on the others", row, c->n_rows, head,
                  c->n_heads);
        }
    }
}

/* The last position's value is no number: the last row alone shows it. */
static void check_not_a_number(const ce_kernels *k, ce_phase phase, attention_case *c,
                               const float *out) {
    static float found[MAX_ROWS * MAX_HEADS * MAX_HEAD_DIM], log_sum[MAX_ROWS * MAX_HEADS];
    const int last = c->n_rows - 1, n = row_elements(c);
    if (c->end <= c->position + last) {
        return;
    }
    const size_t size = (size_t)ce_row_bytes((int32_t)c->type, c->head_dim);
    memset(c->v_bytes + (size_t)(c->position + last) * size, 0xff, size);
    run_case(k, phase, c, 0, c->n_rows, 0, c->n_heads, found, log_sum);
    CHECK(memcmp(found, out, (size_t)(last * n) * sizeof *out) == 0,
          "a NaN reached a row before it");
    for (int i = 0; i < n; i++) {
        CHECK(isnan(found[last * n + i]), "a NaN became %g", found[last * n + i]);
    }
}

/* Whether a kernel rounds its operands to bf16. */
static bool is_bf16(const ce_kernels *k, ce_phase phase, ce_type type) {
    return strcmp(k->tier, "amx") == 0 && phase == CE_PHASE_PROMPT && type != CE_TYPE_F32;
}

static void check_attention(const ce_kernels *k, ce_phase phase, ce_type type) {
    static attention_case c;
    static float out[MAX_ROWS * MAX_HEADS * MAX_HEAD_DIM], log_sum[MAX_ROWS * MAX_HEADS];
    const bool bf16 = is_bf16(k, phase, type);
    const float amplitudes[] = {0.05f, 4.0f, bf16 ? 4.0f : 1000.0f};
    for (int run = 0; run < share_of(90); run++) {
        random_case(&c, type, phase == CE_PHASE_PROMPT ? MAX_ROWS : 3, amplitudes[run % 3]);
        if (run % 5 == 0) {
            hide_position(&c);
        }
        run_case(k, phase, &c, 0, c.n_rows, 0, c.n_heads, out, log_sum);
        for (int i = 0; i < c.n_rows * c.n_heads; i++) {
            check_head(&c, i / c.n_heads, i % c.n_heads, bf16 ? 0x1p-9 : 0, out + i * c.head_dim,
                       log_sum[i]);
        }
        check_alone(k, phase, &c, out, log_sum);
        check_not_a_number(k, phase, &c, out);
    }
}

/* ---- Speed ---- */

/* One KV head of Mixtral at the end of a long context. */
static void bench(const ce_kernels *k, ce_phase phase, ce_type type, const char *name) {
    enum { HEADS = 4, HEAD_DIM = 128, POSITIONS = 8192, ROWS = 64 };
    static float q[ROWS * HEADS * HEAD_DIM], out[ROWS * HEADS * HEAD_DIM];
    static char k_bytes[POSITIONS * HEAD_DIM * sizeof(float)], v_bytes[sizeof k_bytes];
    static _Alignas(64) char scratch[4 << 20];
    const int n_rows = phase == CE_PHASE_PROMPT ? ROWS : 1;
    const ce_queries queries = {
        .q = q,
        .out = out,
        .row_stride = HEADS * HEAD_DIM,
        .k = k_bytes,
        .v = v_bytes,
        .kv_type = k->dequantize[type],
        .kv_row_bytes = (size_t)ce_row_bytes((int32_t)type, HEAD_DIM),
        .n_rows = n_rows,
        .n_heads = HEADS,
        .head_dim = HEAD_DIM,
        .position = POSITIONS - n_rows,
        .end = POSITIONS,
        .scale = 0.1f,
        .scratch = scratch,
    };
    random_floats(q, sizeof q / sizeof *q, 1.0f);
    memset(k_bytes, 0x11, sizeof k_bytes);
    memset(v_bytes, 0x11, sizeof v_bytes);
    double best = INFINITY;
    for (int run = 0; run < 20; run++) {
        const double start = seconds();
        k->attend[phase][type](&queries);
        best = fmin(best, seconds() - start);
    }
    printf("%-12s %-10s %-5s %8.2f GMAC/s %7.2f GB/s\n", k->tier,
           phase == CE_PHASE_PROMPT ? "prompt" : "generated", name,
           1e-9 * 2 * HEADS * HEAD_DIM * n_rows * (POSITIONS - n_rows / 2.0) / best,
           1e-9 * 2 * POSITIONS * (double)queries.kv_row_bytes / best);
}

int main(int argc, char **argv) {
    static const char *const type_names[] = {"f32", "f16", "q8_0"};
    report_crashes();
    for (int i = 0; i < OPERANDS; i++) {
        guard[i] = guarded_new(2 << 20);
    }
    const bool measure = argc > 1 && strcmp(argv[1], "--bench") == 0;
    ce_kernels k;
    for (int tier = 0; ce_tier_name(tier) != NULL; tier++) {
        if (!tier_kernels(tier, &k)) {
            printf("skipped: %s\n", ce_tier_name(tier));
            continue;
        }
        for (int i = 0; i < 2 * 3; i++) {
            const ce_phase phase = i % 2 ? CE_PHASE_GENERATED : CE_PHASE_PROMPT;
            snprintf(check_subject, sizeof check_subject, "attention/%s/%s/%s", k.tier,
                     phase == CE_PHASE_PROMPT ? "prompt" : "generated", type_names[i / 2]);
            if (measure) {
                bench(&k, phase, kv_types[i / 2], type_names[i / 2]);
            } else {
                check_attention(&k, phase, kv_types[i / 2]);
            }
        }
    }
    return measure ? 0 : summary("check_attention");
}
