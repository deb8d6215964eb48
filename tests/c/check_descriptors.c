/* Descriptors of a model that lie, and weights of random bits: the engine refuses them or computes
 * something, and under the sanitizers touches nothing beyond the bytes that it was given. */
#include "check.h"

#include "cengine.h"

/* An allocation beyond reason is then an error of the engine's, not the sanitizer's. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

/* ---- A mixture of experts of one layer; every tensor in an allocation of its own ---- */

enum { DIM = 256, FFN = 256, N_VOCAB = 16, N_EXPERTS = 3, N_IDS = 9, N_TENSORS = 13 };

typedef struct {
    ce_hparams hparams;
    ce_options options;
    ce_tensor tensors[N_TENSORS];
    size_t n_tensors;
} description;

static void *allocated(uint64_t n_bytes) {
    void *p = malloc(n_bytes);
    if (p == NULL) {
        perror("malloc");
        exit(2);
    }
    return p;
}

typedef enum { NUMBERS, RANDOM_BITS } content;

static void fill(ce_type type, content what, void *data, int64_t rows, int64_t cols) {
    if (type != CE_TYPE_F32 && what == RANDOM_BITS) {
        random_bytes(data, ce_row_bytes(type, cols) * (uint64_t)rows);
        return;
    }
    float *numbers = allocated((uint64_t)(rows * cols) * sizeof *numbers);
    random_floats(numbers, (size_t)(rows * cols), 0.1f);
    if (type == CE_TYPE_F32)
        memcpy(data, numbers, (size_t)(rows * cols) * sizeof *numbers);
    else
        ce_quantize(type, numbers, rows, cols, NULL, data, NULL, NULL);
    free(numbers);
}

static ce_tensor tensor(ce_role role, ce_type type, content what, int64_t cols, int64_t rows,
                        int64_t mats) {
    const uint64_t n_bytes = ce_row_bytes(type, cols) * (uint64_t)(rows * mats);
    void *data = allocated(n_bytes);
    fill(type, what, data, rows * mats, cols);
    return (ce_tensor){
        .role = (int32_t)role,
        .expert = CE_ALL_EXPERTS,
        .type = (int32_t)type,
        .n_dims = 3,
        .ne = {cols, rows, mats, 1},
        .data = data,
        .n_bytes = n_bytes,
    };
}

/* `type` is that of all matrices but the router. */
static description describe(ce_type type, content what) {
    return (description){
        .hparams =
            {
                .n_layers = 1,
                .dim = DIM,
                .ffn_dim = FFN,
                .n_heads = 4,
                .n_kv_heads = 2,
                .head_dim = 64,
                .n_vocab = N_VOCAB,
                .n_experts = N_EXPERTS,
                .n_experts_used = 2,
                .norm_eps = 1e-5f,
                .rope_theta = 1e6f,
            },
        .options = {.n_threads = 2},
        .tensors =
            {
                tensor(CE_TOKEN_EMBD, type, what, DIM, N_VOCAB, 1),
                tensor(CE_OUTPUT_NORM, CE_TYPE_F32, what, DIM, 1, 1),
                tensor(CE_OUTPUT, type, what, DIM, N_VOCAB, 1),
                tensor(CE_ATTN_NORM, CE_TYPE_F32, what, DIM, 1, 1),
                tensor(CE_ATTN_Q, type, what, DIM, 256, 1),
                tensor(CE_ATTN_K, type, what, DIM, 128, 1),
                tensor(CE_ATTN_V, type, what, DIM, 128, 1),
                tensor(CE_ATTN_OUTPUT, type, what, 256, DIM, 1),
                tensor(CE_FFN_NORM, CE_TYPE_F32, what, DIM, 1, 1),
                tensor(CE_FFN_GATE_INP, CE_TYPE_F32, what, DIM, N_EXPERTS, 1),
                tensor(CE_FFN_GATE, type, what, DIM, FFN, N_EXPERTS),
                tensor(CE_FFN_UP, type, what, DIM, FFN, N_EXPERTS),
                tensor(CE_FFN_DOWN, type, what, FFN, DIM, N_EXPERTS),
            },
        .n_tensors = N_TENSORS,
    };
}

static void free_tensors(description *d) {
    for (int i = 0; i < N_TENSORS; i++)
        free((void *)(uintptr_t)d->tensors[i].data);
}

/* ---- What is done with a description ---- */

/* A prompt, then a generated token. What comes out may be anything; where it comes from may not. */
static ce_status evaluate(ce_engine *engine, ce_error *err) {
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i % N_VOCAB;
    float *logits = allocated((size_t)N_IDS * N_VOCAB * sizeof *logits);
    ce_session *session = NULL;
    ce_status status = ce_session_create(engine, N_IDS + 1, CE_TYPE_F16, &session, err);
    for (int phase = CE_PHASE_PROMPT; status == CE_OK && phase <= CE_PHASE_GENERATED; phase++) {
        const int n_ids = phase == CE_PHASE_PROMPT ? N_IDS : 1;
        ce_item item = {
            .session = session, .ids = ids, .n_ids = n_ids, .n_logits = n_ids, .logits = logits};
        status = ce_eval(engine, phase, &item, 1, err);
    }
    ce_session_free(session);
    free(logits);
    return status;
}

/* The code of creating an engine and, where that succeeds, of using it. */
static ce_status try(const description *d) {
    ce_engine *engine = NULL;
    ce_error err = {0};
    ce_status status =
        ce_engine_create(&d->hparams, d->tensors, d->n_tensors, &d->options, &engine, &err);
    if (status == CE_OK)
        status = evaluate(engine, &err);
    CHECK((status == CE_OK) == (err.message[0] == 0), "code %d says \"%s\"", status, err.message);
    ce_engine_free(engine);
    return status;
}

/* ---- Lies ---- */

static const int64_t lies[] = {
    INT64_MIN, INT32_MIN, -1,      0,         1,         2,         3,         4,
    5,         7,         8,       13,        31,        33,        64,        255,
    257,       1 << 16,   1 << 22, INT32_MAX, 1LL << 32, 1LL << 61, 1LL << 62, INT64_MAX,
};
enum { N_LIES = sizeof lies / sizeof lies[0] };

static int64_t random_lie(void) { return lies[random_int(0, N_LIES - 1)]; }

/* The fields of a tensor's description, and those of the hyperparameters that are numbers. */
enum { N_TENSOR_FIELDS = 11, N_HPARAM_FIELDS = 12, N_OPTION_FIELDS = 2 };

static void lie_in_tensor(ce_tensor *t, int field, int64_t lie) {
    int32_t *const numbers[] = {&t->role, &t->layer, &t->expert, &t->type, &t->n_dims};
    enum { N_NUMBERS = sizeof numbers / sizeof numbers[0] };
    if (field < N_NUMBERS)
        *numbers[field] = (int32_t)lie;
    else if (field < N_NUMBERS + 4)
        t->ne[field - N_NUMBERS] = lie;
    else if (field == N_NUMBERS + 4)
        t->n_bytes = (uint64_t)lie;
    else
        t->data = lie % 2 == 0 ? NULL : (const uint8_t *)t->data + 1;
}

static void lie_in_hparams(ce_hparams *hp, int field, int64_t lie) {
    int32_t *const numbers[] = {
        &hp->n_layers, &hp->dim,     &hp->ffn_dim,   &hp->n_heads,        &hp->n_kv_heads,
        &hp->head_dim, &hp->n_vocab, &hp->n_experts, &hp->n_experts_used, &hp->sliding_window};
    float *const floats[] = {&hp->norm_eps, &hp->rope_theta};
    const float float_lies[] = {0.0f, -1.0f, NAN, INFINITY, -INFINITY, 1e-45f, 3e38f};
    enum { N_NUMBERS = sizeof numbers / sizeof numbers[0] };
    if (field < N_NUMBERS)
        *numbers[field] = (int32_t)lie;
    else
        *floats[field - N_NUMBERS] = float_lies[(uint64_t)lie % 7];
}

static void lie_in_options(ce_options *options, int field, int64_t lie) {
    *(field == 0 ? &options->n_threads : &options->batch_rows) = (int32_t)lie;
}

static void tell_random_lie(description *d) {
    const int what = random_int(0, 9);
    if (what < 7)
        lie_in_tensor(&d->tensors[random_int(0, N_TENSORS - 1)], random_int(0, N_TENSOR_FIELDS - 1),
                      random_lie());
    else if (what < 9)
        lie_in_hparams(&d->hparams, random_int(0, N_HPARAM_FIELDS - 1), random_lie());
    else
        d->n_tensors = (size_t)random_int(0, N_TENSORS);
}

/* ---- The checks ---- */

/* Whether the descriptions are of the same matrices, of types that take the same bytes. */
static bool are_alike(const ce_tensor *a, const ce_tensor *b) {
    for (int i = 0; i < 4; i++)
        if ((i < a->n_dims ? a->ne[i] : 1) != (i < b->n_dims ? b->ne[i] : 1))
            return false;
    return a->role == b->role && a->layer == b->layer && a->expert == b->expert &&
           ce_row_bytes(a->type, DIM) == ce_row_bytes(b->type, DIM) && a->n_dims >= 1 &&
           a->n_dims <= 4 && a->n_bytes == b->n_bytes && a->data == b->data;
}

static void check_every_lie(const description *truth) {
    for (int lie = 0; lie < N_LIES; lie++) {
        for (int i = 0; i < N_TENSORS; i++)
            for (int field = 0; field < N_TENSOR_FIELDS; field++) {
                snprintf(check_subject, sizeof check_subject, "tensor %d, field %d, lie %d", i,
                         field, lie);
                description d = *truth;
                lie_in_tensor(&d.tensors[i], field, lies[lie]);
                const ce_status status = try(&d);
                CHECK(status != CE_OK || are_alike(&d.tensors[i], &truth->tensors[i]),
                      "a lie is believed");
            }
        for (int field = 0; field < N_HPARAM_FIELDS; field++) {
            snprintf(check_subject, sizeof check_subject, "hparam %d, lie %d", field, lie);
            description d = *truth;
            lie_in_hparams(&d.hparams, field, lies[lie]);
            try(&d);
        }
        for (int field = 0; field < N_OPTION_FIELDS; field++) {
            snprintf(check_subject, sizeof check_subject, "option %d, lie %d", field, lie);
            description d = *truth;
            lie_in_options(&d.options, field, lies[lie]);
            try(&d);
        }
    }
}

static void check_several_lies(const description *truth, int n) {
    for (int i = 0; i < n; i++) {
        snprintf(check_subject, sizeof check_subject, "lies of round %d", i);
        description d = *truth;
        for (int more = random_int(1, 4); more > 0; more--)
            tell_random_lie(&d);
        try(&d);
    }
}

/* ---- Repacked weights of others ---- */

/* What the engine is told: a tensor, and where it lies repacked in how many bytes. */
typedef struct {
    ce_tensor tensor;
    const void *repacked;
    uint64_t size;
} repacked_description;

enum { N_REPACKED_FIELDS = 7 };

static void lie_of_repacked(repacked_description *d, int field, int64_t lie) {
    ce_tensor *t = &d->tensor;
    int32_t *const numbers[] = {&t->role, &t->layer, &t->expert, &t->type};
    enum { N_NUMBERS = sizeof numbers / sizeof numbers[0] };
    if (field < N_NUMBERS)
        *numbers[field] = (int32_t)lie;
    else if (field == N_NUMBERS)
        d->size = (uint64_t)lie;
    else if (field == N_NUMBERS + 1)
        d->size += (uint64_t)lie;
    else
        d->repacked = lie % 2 == 0 ? NULL : (const uint8_t *)d->repacked + (lie & 63);
}

static repacked_description repack(const ce_tensor *t) {
    void *to = aligned_alloc(64, t->n_bytes); /* the sanitizer watches its end */
    if (to == NULL) {
        perror("aligned_alloc");
        exit(2);
    }
    ce_error err = {0};
    const ce_status status =
        ce_repack_rows(t->type, t->data, t->ne[1] * t->ne[2], t->ne[0], to, &err);
    CHECK(status == CE_OK, "%s", err.message);
    return (repacked_description){*t, to, t->n_bytes};
}

/* An engine believes the truth, and of the lies those that are harmless: what it computes then is
 * read from what it was given. */
static void check_repacked_lies(const description *truth) {
    repacked_description repacked[N_TENSORS];
    int n = 0;
    for (int i = 0; i < N_TENSORS; i++)
        if (ce_is_repackable(&truth->tensors[i]))
            repacked[n++] = repack(&truth->tensors[i]);
    CHECK(n == 8, "%d tensors can be repacked",
          n); /* four of attention, three of experts, output */
    for (int lie = -1; lie < N_LIES; lie++)
        for (int field = 0; field < N_REPACKED_FIELDS; field++) {
            snprintf(check_subject, sizeof check_subject, "repacked, field %d, lie %d", field, lie);
            ce_engine *engine = NULL;
            ce_error err = {0};
            ce_status status = ce_engine_create(&truth->hparams, truth->tensors, truth->n_tensors,
                                                &truth->options, &engine, &err);
            CHECK(status == CE_OK, "%s", err.message);
            for (int i = 0; i < n; i++) {
                repacked_description d = repacked[i];
                if (lie >= 0)
                    lie_of_repacked(&d, field, lies[lie]);
                uint64_t n_used = 0;
                err.message[0] = 0;
                status =
                    ce_engine_use_repacked(engine, &d.tensor, d.repacked, d.size, &n_used, &err);
                CHECK((status == CE_OK) == (err.message[0] == 0), "code %d", status);
                CHECK(n_used == 0 || (n_used == d.size && status == CE_OK), "a lie is believed");
                CHECK(lie >= 0 || n_used == d.size || ce_tier_supported(1) == 0,
                      "the truth is not");
            }
            CHECK(evaluate(engine, &err) == CE_OK, "%s", err.message);
            ce_engine_free(engine);
        }
    for (int i = 0; i < n; i++)
        free((void *)(uintptr_t)repacked[i].repacked);
}

/* Every type in every tier: all bits of a block occur, scales that are no numbers among them. */
static void check_random_blocks(void) {
    for (int type = 0; type <= CE_TYPE_BF16; type++) {
        if (ce_row_bytes(type, DIM) == 0)
            continue;
        for (int round = 0; round < 4; round++) {
            description d = describe((ce_type)type, RANDOM_BITS);
            for (int tier = 0; ce_tier_name(tier) != NULL; tier++) {
                if (!ce_tier_supported(tier))
                    continue;
                d.options.tier = ce_tier_name(tier);
                snprintf(check_subject, sizeof check_subject, "random blocks of type %d, %s", type,
                         d.options.tier);
                const ce_status status = try(&d);
                CHECK(status == CE_OK || status == CE_ERR_NUMERIC, "code %d", status);
            }
            free_tensors(&d);
        }
    }
}

int main(void) {
    report_crashes();
    description truth = describe(CE_TYPE_Q4_K, NUMBERS);
    snprintf(check_subject, sizeof check_subject, "the truth");
    const ce_status status = try(&truth);
    CHECK(status == CE_OK, "is refused with code %d", status);
    check_every_lie(&truth);
    check_several_lies(&truth, 20000);
    check_repacked_lies(&truth);
    free_tensors(&truth);
    check_random_blocks();
    return summary("check_descriptors");
}
