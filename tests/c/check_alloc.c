/* Every allocation of the C core fails once: each time an error, nothing leaked, and what already
 * existed goes on working. The linker puts the functions below in front of those of memory.c
 * (-Wl,--wrap). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "cengine.h"
#include "memory.h"

static int n_failures;
static int fail_at; /* the allocation that fails, counted from 1; 0: none does */
static int n_allocations;
static int n_live;

void *__real_ce_alloc(uint64_t n_bytes);
void *__real_ce_alloc_zeroed(uint64_t n_bytes);
void *__real_ce_alloc_large(uint64_t n_bytes);
void __real_ce_free(void *p);
void *__wrap_ce_alloc(uint64_t n_bytes);
void *__wrap_ce_alloc_zeroed(uint64_t n_bytes);
void *__wrap_ce_alloc_large(uint64_t n_bytes);
void __wrap_ce_free(void *p);

static void *counted(void *(*alloc)(uint64_t), uint64_t n_bytes) {
    if (++n_allocations == fail_at)
        return NULL;
    void *p = alloc(n_bytes);
    n_live += p != NULL;
    return p;
}

void *__wrap_ce_alloc(uint64_t n_bytes) { return counted(__real_ce_alloc, n_bytes); }

void *__wrap_ce_alloc_zeroed(uint64_t n_bytes) { return counted(__real_ce_alloc_zeroed, n_bytes); }

void *__wrap_ce_alloc_large(uint64_t n_bytes) { return counted(__real_ce_alloc_large, n_bytes); }

void __wrap_ce_free(void *p) {
    n_live -= p != NULL;
    __real_ce_free(p);
}

static void expect(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "FAILED: %s, when allocation %d fails\n", what, fail_at);
        n_failures++;
    }
}

/* ---- A dense model of one layer, whose weights are all the same, down's but for its type ---- */

enum { DIM = 32, FFN = 256, N_VOCAB = 16, N_TENSORS = 12, MAX_ELEMENTS = FFN * DIM };

static const ce_hparams hparams = {
    .n_layers = 1,
    .dim = DIM,
    .ffn_dim = FFN,
    .n_heads = 2,
    .n_kv_heads = 1,
    .head_dim = 16,
    .n_vocab = N_VOCAB,
    .norm_eps = 1e-5f,
    .rope_theta = 10000,
};

static float weights[MAX_ELEMENTS];
static ce_block_q8_0 down_weights[DIM][FFN / CE_QK];

static ce_tensor tensor(ce_role role, int64_t cols, int64_t rows) {
    return (ce_tensor){
        .role = (int32_t)role,
        .expert = CE_ALL_EXPERTS,
        .type = CE_TYPE_F32,
        .n_dims = 2,
        .ne = {cols, rows, 1, 1},
        .data = weights,
        .n_bytes = (uint64_t)(cols * rows) * sizeof *weights,
    };
}

static void describe(ce_tensor tensors[N_TENSORS]) {
    const ce_tensor all[N_TENSORS] = {
        tensor(CE_TOKEN_EMBD, DIM, N_VOCAB), tensor(CE_OUTPUT_NORM, DIM, 1),
        tensor(CE_OUTPUT, DIM, N_VOCAB),     tensor(CE_ATTN_NORM, DIM, 1),
        tensor(CE_ATTN_Q, DIM, 32),          tensor(CE_ATTN_K, DIM, 16),
        tensor(CE_ATTN_V, DIM, 16),          tensor(CE_ATTN_OUTPUT, 32, DIM),
        tensor(CE_FFN_NORM, DIM, 1),         tensor(CE_FFN_GATE, DIM, FFN),
        tensor(CE_FFN_UP, DIM, FFN),         tensor(CE_FFN_DOWN, FFN, DIM),
    };
    memcpy(tensors, all, sizeof all);
    ce_tensor *down = &tensors[N_TENSORS - 1]; /* of a type that can be repacked */
    down->type = CE_TYPE_Q8_0;
    down->data = down_weights;
    down->n_bytes = sizeof down_weights;
}

/* ---- One life: load, evaluate, copy a session, evaluate again, repack, and again ---- */

static ce_status evaluate(ce_engine *engine, ce_session *session) {
    const int32_t ids[] = {1, 2, 3};
    float logits[N_VOCAB];
    ce_item item = {.session = session, .ids = ids, .n_ids = 3, .n_logits = 1, .logits = logits};
    return ce_eval(engine, CE_PHASE_PROMPT, &item, 1, NULL);
}

static ce_status use(ce_engine *engine, const ce_tensor *down, ce_error *err) {
    ce_session *session = NULL, *copy = NULL;
    ce_status status = ce_session_create(engine, 16, CE_TYPE_F16, &session, err);
    if (status != CE_OK)
        return status;
    const int n_before = n_allocations;
    expect(evaluate(engine, session) == CE_OK, "an evaluation succeeds");
    expect(n_allocations == n_before, "an evaluation allocates nothing");
    status = ce_session_copy(session, &copy, err);
    expect(evaluate(engine, session) == CE_OK, "a session goes on after a failed copy");
    uint64_t n_bytes;
    if (status == CE_OK)
        status = ce_engine_repack(engine, down, &n_bytes, err);
    expect(evaluate(engine, session) == CE_OK, "an engine goes on after a failed repacking");
    ce_session_free(copy);
    ce_session_free(session);
    return status;
}

static ce_status live(ce_error *err) {
    ce_tensor tensors[N_TENSORS];
    describe(tensors);
    const ce_options options = {.n_threads = 3};
    ce_engine *engine = NULL;
    ce_status status = ce_engine_create(&hparams, tensors, N_TENSORS, &options, &engine, err);
    if (status == CE_OK)
        status = use(engine, &tensors[N_TENSORS - 1], err);
    ce_engine_free(engine);
    return status;
}

int main(void) {
    for (int i = 0; i < MAX_ELEMENTS; i++)
        weights[i] = 0.01f * (float)(i % 7 - 3);
    ce_error err = {0};
    expect(live(&err) == CE_OK, err.message);
    const int n_sites = n_allocations;
    for (fail_at = 1; fail_at <= n_sites; fail_at++) {
        n_allocations = 0;
        memset(&err, 0, sizeof err);
        expect(live(&err) == CE_ERR_MEMORY, "the error is CE_ERR_MEMORY");
        expect(strstr(err.message, "out of memory") != NULL, "the message says so");
        expect(n_live == 0, "nothing is leaked");
    }
    printf("check_alloc: %d allocations, %s\n", n_sites, n_failures == 0 ? "ok" : "FAILED");
    return n_failures != 0 || n_sites < 5;
}
