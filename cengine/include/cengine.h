/* The public C API of the engine, and the only source of the cffi declarations:
 * ffi_build.py hands cffi the text between the two marker comments.
 *
 * An engine is one bound model, its thread pool and its scratch memory. Sessions are
 * timelines (a KV cache each) that are evaluated on it, alone or several in one batch.
 * The engine never opens files, prints or exits. Every call that can fail returns a
 * ce_status and, where `err` is not NULL, fills it with one line.
 *
 * Threads: evaluations on one engine wait for one another. Any thread may use any session; what
 * one that another thread is using is asked for is refused (CE_ERR_BUSY).
 */
#ifndef CENGINE_H
#define CENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

typedef enum {
    CE_OK = 0,
    CE_ERR_ARGUMENT = 1, /* a caller's mistake: a bad size, a null pointer, an id out of range */
    CE_ERR_MEMORY = 2,   /* an allocation failed */
    CE_ERR_MODEL = 3,    /* tensors that contradict the hyperparameters, or a type without kernel */
    CE_ERR_TIER = 4,     /* unknown instruction-set tier, or one that this CPU lacks */
    CE_ERR_CONTEXT = 5,  /* more positions than the session's context */
    CE_ERR_CANCELLED = 6, /* ce_session_cancel was called; the session is as before the eval */
    CE_ERR_NUMERIC = 7,   /* a NaN or infinite router logit; the session is as before the eval */
    CE_ERR_FORKED = 8,    /* used in a process forked after the threads were started */
    CE_ERR_THREADS = 9,   /* the threads could not be started */
    CE_ERR_BUSY = 10      /* a session twice in one batch, or in two threads; or inside a tap */
} ce_status;

typedef struct {
    int32_t code; /* a ce_status */
    char message[252];
} ce_error;

/* Element types, with GGML's numbers (the numbers in GGUF files). */
typedef enum {
    CE_TYPE_F32 = 0,
    CE_TYPE_F16 = 1,
    CE_TYPE_Q4_0 = 2,
    CE_TYPE_Q4_1 = 3,
    CE_TYPE_Q5_0 = 6,
    CE_TYPE_Q5_1 = 7,
    CE_TYPE_Q8_0 = 8,
    CE_TYPE_Q2_K = 10,
    CE_TYPE_Q3_K = 11,
    CE_TYPE_Q4_K = 12,
    CE_TYPE_Q5_K = 13,
    CE_TYPE_Q6_K = 14,
    CE_TYPE_IQ2_XXS = 16,
    CE_TYPE_IQ2_XS = 17,
    CE_TYPE_IQ3_XXS = 18,
    CE_TYPE_IQ1_S = 19,
    CE_TYPE_IQ4_NL = 20,
    CE_TYPE_IQ3_S = 21,
    CE_TYPE_IQ2_S = 22,
    CE_TYPE_IQ4_XS = 23,
    CE_TYPE_IQ1_M = 29,
    CE_TYPE_BF16 = 30
} ce_type;

/* What a tensor is for. The order is shared with formats/names.py (a test compares them). */
typedef enum {
    CE_TOKEN_EMBD = 0,
    CE_OUTPUT_NORM = 1,
    CE_OUTPUT = 2,
    CE_ATTN_NORM = 3,
    CE_ATTN_Q = 4,
    CE_ATTN_K = 5,
    CE_ATTN_V = 6,
    CE_ATTN_OUTPUT = 7,
    CE_FFN_NORM = 8,
    CE_FFN_GATE_INP = 9, /* the router */
    CE_FFN_GATE = 10,    /* w1; with experts: (n_experts, ffn_dim, dim) */
    CE_FFN_UP = 11,      /* w3 */
    CE_FFN_DOWN = 12,    /* w2; with experts: (n_experts, dim, ffn_dim) */
    CE_N_ROLES = 13
} ce_role;

/* Whether tokens are read (a prompt) or were generated one at a time. It picks the kernel
 * family, and nothing else does: not the batch size, not the number of threads. */
typedef enum { CE_PHASE_PROMPT = 0, CE_PHASE_GENERATED = 1 } ce_phase;

typedef struct {
    int32_t n_layers;
    int32_t dim;
    int32_t ffn_dim;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t n_vocab;
    int32_t n_experts;      /* 0: dense */
    int32_t n_experts_used; /* per token; 0 when dense */
    int32_t sliding_window; /* positions a token sees, itself included; 0: all */
    float norm_eps;
    float rope_theta;
} ce_hparams;

enum { CE_ALL_EXPERTS = -1 };

/* One tensor of the file. `data` stays the caller's, and must outlive the engine. */
typedef struct {
    int32_t role;   /* ce_role */
    int32_t layer;  /* 0 for the tensors that belong to no layer */
    int32_t expert; /* CE_ALL_EXPERTS, or the one whose matrix (2 dimensions) this is */
    int32_t type;   /* ce_type */
    int32_t n_dims;
    int64_t ne[4]; /* extents, fastest first (GGML's order): ne[0] is a row's length */
    const void *data;
    uint64_t n_bytes;
} ce_tensor;

typedef struct {
    int32_t n_threads;  /* 0: as many as affinity and the cgroup's quota allow */
    int32_t batch_rows; /* tokens per pass through the layers; 0: 512 */
    const char *tier;   /* NULL: $PYMIXTRAL_TIER, or else the best that the CPU has */
} ce_options;

typedef struct ce_engine ce_engine;
typedef struct ce_session ce_session;

/* ---- The machine ---- */

/* Tiers compiled in, worst first: name of the i-th, or NULL past the last. */
const char *ce_tier_name(int32_t i);
/* 1 if this CPU (and operating system) can run the i-th tier. */
int32_t ce_tier_supported(int32_t i);
/* Threads that affinity and the cgroup's CPU quota allow, at least 1. */
int32_t ce_default_threads(void);
/* Bytes of one row of n_cols elements, or 0 if the type is unknown or does not divide. */
uint64_t ce_row_bytes(int32_t type, int64_t n_cols);
/* Dequantizes n_cols elements at `src` (the generic kernel, bit-equal to ggml's formulas). */
ce_status ce_dequantize(int32_t type, const void *src, float *dst, int64_t n_cols, ce_error *err);

typedef struct {
    double error;  /* sum of (value - quantized value)^2 */
    double square; /* sum of value^2 */
} ce_quantize_error;

/* Quantizes n_rows rows of n_cols floats to `dst`, in the calling thread. A block's bytes depend on
 * its values alone: rows may be cut among threads in any way, and every tier gives the same.
 * importance: [n_cols], how much an error in a column matters (0 ... 65504, around 1 on average),
 * or NULL; the types with one scale per 32 columns ignore it. What is lost is added to `sums`,
 * which may be NULL. CE_ERR_NUMERIC for a value beyond +-65504 or that is no number. */
ce_status ce_quantize(int32_t type, const float *src, int64_t n_rows, int64_t n_cols,
                      const float *importance, void *dst, ce_quantize_error *sums, ce_error *err);

/* For programs, not for libraries: if a mapped file turns out to have been truncated (SIGBUS),
 * writes `line` to stderr and ends the process with code 1. */
void ce_explain_bus_errors(const char *line);

/* Has mapped bytes read from the disk, and found in memory, 2 MB at a time, where the file system
 * and the kernel can. For those that will be read whole: a single one would cost as much. */
void ce_want_large_reads(const void *data, uint64_t n_bytes);
/* Returns when the mapped bytes at `data` have been read from the disk into memory, where they were
 * not there; 0 if the system cannot do that. */
int32_t ce_read_ahead(const void *data, uint64_t n_bytes);

/* ---- The repacked layout: sixteen rows of a matrix side by side, in as many bytes ---- */

/* Its number, which another layout would not have: files that keep it note the number. */
int32_t ce_repack_version(void);
/* 1 if the tensor's matrices can lie so, by their role, type and extents (the rest is not looked
 * at); 0 if they have no such layout, or are read row by row. */
int32_t ce_is_repackable(const ce_tensor *tensor);
/* Writes n_rows rows of n_cols at `src` in the repacked layout to as many bytes at `dst`, in the
 * calling thread. Matrices may be cut anywhere between two groups of sixteen rows. */
ce_status ce_repack_rows(int32_t type, const void *src, int64_t n_rows, int64_t n_cols, void *dst,
                         ce_error *err);

/* ---- An engine ---- */

ce_status ce_engine_create(const ce_hparams *hparams, const ce_tensor *tensors, size_t n_tensors,
                           const ce_options *options, ce_engine **out, ce_error *err);
/* Frees the engine; NULL is allowed. Its sessions must have been freed before. */
void ce_engine_free(ce_engine *engine);
int32_t ce_engine_threads(const ce_engine *engine);
int32_t ce_engine_batch_rows(const ce_engine *engine);
const char *ce_engine_tier(const ce_engine *engine);
/* Bytes of scratch that an engine allocates for these hyperparameters and options. */
uint64_t ce_engine_scratch_bytes(const ce_hparams *hparams, const ce_options *options);
/* Gives the engine a copy of a tensor's matrices in the layout that its kernels read fastest. What
 * is computed stays the same to the bit, and `data` is not read any more: its pages may be given
 * back. *n_bytes: what was copied; 0 if the tensor stays as it is, because its type, its shape or
 * the tier has no such layout, or because it is read row by row. */
ce_status ce_engine_repack(ce_engine *engine, const ce_tensor *tensor, uint64_t *n_bytes,
                           ce_error *err);
/* The same without a copy: at `repacked`, a multiple of 64, lie the tensor's matrices one after
 * another as ce_repack_rows makes them, size bytes in all. They stay the caller's, and must outlive
 * the engine. *n_bytes: what will be read there, 0 as above. CE_ERR_ARGUMENT if the address, the
 * size or the type does not fit the tensor. */
ce_status ce_engine_use_repacked(ce_engine *engine, const ce_tensor *tensor, const void *repacked,
                                 uint64_t size, uint64_t *n_bytes, ce_error *err);
/* The matmul kernel of a weight type in a phase, such as "q4_K/avx2/prompt"; NULL if none. */
const char *ce_engine_kernel_name(const ce_engine *engine, int32_t type, int32_t phase);
/* How many matmuls that kernel has run since the engine was created. */
uint64_t ce_engine_kernel_calls(const ce_engine *engine, int32_t type, int32_t phase);

/* ---- How fast it is, and could be ---- */

/* The parts of a pass. Norms, the router and the experts' products include what makes their results
 * fit for the next part (rounding to int8, sorting by expert); down includes the experts' sum. */
typedef enum {
    CE_OP_EMBED = 0,
    CE_OP_NORM = 1,
    CE_OP_QKV = 2,
    CE_OP_ATTENTION = 3,
    CE_OP_ATTN_OUTPUT = 4,
    CE_OP_ROUTER = 5,
    CE_OP_GATE_UP = 6,
    CE_OP_DOWN = 7,
    CE_OP_HEAD = 8,
    CE_N_OPS = 9
} ce_op;

/* What to call it; NULL past the last. */
const char *ce_op_name(int32_t op);
/* Time that it has taken in a phase since the engine was created. */
double ce_engine_op_seconds(const ce_engine *engine, int32_t op, int32_t phase);
/* The engine's threads load n_bytes at `data`, and do nothing else. */
ce_status ce_engine_read(ce_engine *engine, const void *data, uint64_t n_bytes, ce_error *err);
/* The engine's threads multiply what is in their registers, at least n_products times in all, and
 * do nothing else. How often it was is written to *done. */
ce_status ce_engine_multiply(ce_engine *engine, int64_t n_products, int64_t *done, ce_error *err);
/* The instruction that it is done with. */
const char *ce_engine_multiply_instruction(const ce_engine *engine);

/* ---- Sessions ---- */

/* kv_type is CE_TYPE_F16, CE_TYPE_F32 or, if head_dim is a multiple of 32, CE_TYPE_Q8_0. The KV
 * cache is reserved at once, and touched as it fills. */
ce_status ce_session_create(ce_engine *engine, int32_t n_ctx, int32_t kv_type, ce_session **out,
                            ce_error *err);
void ce_session_free(ce_session *session);
/* Bytes that the KV cache of n_ctx positions takes; 0 if the type does not go with head_dim. */
uint64_t ce_session_kv_bytes(const ce_hparams *hparams, int32_t n_ctx, int32_t kv_type);
int32_t ce_session_length(const ce_session *session);
int32_t ce_session_n_ctx(const ce_session *session);
/* Forgets the positions from `length` on. */
ce_status ce_session_truncate(ce_session *session, int32_t length, ce_error *err);
/* A new session with the same context, positions and KV bytes. */
ce_status ce_session_copy(ce_session *session, ce_session **out, ce_error *err);
/* From any thread: the evaluation under way that holds this session ends with
 * CE_ERR_CANCELLED for all its sessions, within a work chunk, and at once if it still waits for
 * another one. The flag stays up until ce_session_resume, so that a cancel just before an eval is
 * not lost. */
void ce_session_cancel(ce_session *session);
void ce_session_resume(ce_session *session);

/* ---- Evaluation ---- */

/* One session's share of a batch. */
typedef struct {
    ce_session *session;
    const int32_t *ids; /* [n_ids] */
    int32_t n_ids;
    int32_t n_logits; /* logits are wanted for the last n_logits ids: 0 ... n_ids */
    float *logits;    /* [n_logits][n_vocab], the caller's; may be NULL if n_logits is 0 */
    int32_t status;   /* out: ce_status of this session */
} ce_item;

/* Appends each item's ids to its session. Returns the first status that is not CE_OK; an item
 * that fails leaves its session as it was, and does not disturb the others. */
ce_status ce_eval(ce_engine *engine, int32_t phase, ce_item *items, int32_t n_items, ce_error *err);

/* ---- Taps: looking inside ---- */

/* What a tap sees: the rows that went into one matrix (one expert's, for CE_FFN_*), or, for
 * CE_FFN_GATE_INP, also the router's choices. Pointers are valid during the call only. */
typedef struct {
    int32_t role;   /* ce_role of the matrix */
    int32_t layer;  /* 0 for CE_OUTPUT */
    int32_t expert; /* 0 when dense */
    int32_t n_rows;
    int32_t n_cols;
    const float *x;             /* [n_rows][n_cols]: the matrix's inputs */
    const int32_t *item;        /* [n_rows]: which item of the batch a row belongs to */
    const int32_t *position;    /* [n_rows]: its position in that session */
    int32_t n_used;             /* CE_FFN_GATE_INP only, else 0 */
    const int32_t *chosen;      /* [n_rows][n_used]: experts, best first */
    const float *chosen_weight; /* [n_rows][n_used]: their softmax weights */
} ce_tap_event;

typedef void (*ce_tap_fn)(void *user, const ce_tap_event *event);

/* Sets (or, with NULL, removes) the tap, between two evaluations: waits for the one under way. It
 * is called from the thread that evaluates. Gate and up share their input: only CE_FFN_GATE is
 * reported; likewise only CE_ATTN_Q of q, k and v. */
ce_status ce_engine_set_tap(ce_engine *engine, ce_tap_fn fn, void *user, ce_error *err);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
