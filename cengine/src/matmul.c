#include "matmul.h"

/* A chunk streams enough of a matrix to pay for handing it out and for the prefetch that runs past
 * its end, and little enough to be shared evenly and to answer a cancel at once. */
enum {
    MIN_CHUNK_BYTES = 64 * 1024,
    MAX_CHUNK_BYTES = 256 * 1024,
    CHUNKS_PER_THREAD = 16,
    ROW_GROUP = 16,
    PACKED_ROWS = 128 /* for a packed kernel: what it needs to read the activations seldom */
};

typedef struct {
    const ce_pass *pass;
    const ce_matmul_job *jobs;
    uint64_t chunk_bytes;
    const void *packed[CE_MAX_JOBS];      /* inputs, where the kernel of w wants them packed */
    const void *packed_up[CE_MAX_JOBS];   /* and that of up */
    int64_t first_chunk[CE_MAX_JOBS + 1]; /* of each job; the last entry counts all chunks */
} matmul_loop;

static uint64_t choose_chunk_bytes(const ce_matmul_job *jobs, int n_jobs, int n_threads) {
    uint64_t total = 0;
    for (int j = 0; j < n_jobs; j++)
        total += (uint64_t)jobs[j].w.n_rows * jobs[j].w.row_bytes;
    const uint64_t share = total / ((uint64_t)n_threads * CHUNKS_PER_THREAD);
    return share < MIN_CHUNK_BYTES   ? MIN_CHUNK_BYTES
           : share > MAX_CHUNK_BYTES ? MAX_CHUNK_BYTES
                                     : share;
}

static const ce_matmul_kernel *kernel_of(const ce_pass *pass, const ce_matrix *w) {
    const ce_kernels *kernels = &pass->engine->kernels;
    return w->repacked != NULL ? &kernels->repacked[pass->phase][w->type]
                               : &kernels->matmul[pass->phase][w->type];
}

/* How the product of w and so many tokens wants its input packed; NULL: not at all. */
static const ce_packing *packing_for(const ce_pass *pass, const ce_matrix *w, int n_tokens) {
    const ce_packing *packing = kernel_of(pass, w)->packing;
    return packing != NULL && n_tokens >= packing->min_tokens ? packing : NULL;
}

static int chunk_rows(const matmul_loop *loop, const ce_matmul_job *job) {
    const ce_matrix *w = &job->w;
    const int least = packing_for(loop->pass, w, job->n_tokens) != NULL ? PACKED_ROWS : ROW_GROUP;
    const uint64_t rows = loop->chunk_bytes / w->row_bytes / (uint64_t)least * (uint64_t)least;
    return rows < (uint64_t)least ? least : rows > CE_CHUNK_ROWS ? CE_CHUNK_ROWS : (int)rows;
}

/* Rows [row, row + n_rows) of w times the job's tokens. */
static void multiply(const ce_pass *pass, const ce_matmul_job *job, const void *packed,
                     const ce_matrix *w, int row, int n_rows, float *y, size_t y_stride,
                     int thread) {
    ce_acts x = job->x;
    x.packed = packed;
    kernel_of(pass, w)->run(y, y_stride, ce_matrix_row(w, row), (size_t)w->row_bytes, n_rows, &x,
                            job->n_tokens, w->n_cols,
                            pass->engine->scratch.work + (size_t)thread * CE_WORK_BYTES);
}

static void matmul_chunk(void *ctx, int64_t chunk, int thread) {
    const matmul_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    int j = 0;
    while (loop->first_chunk[j + 1] <= chunk)
        j++;
    const ce_matmul_job *job = &loop->jobs[j];
    const int step = chunk_rows(loop, job);
    const int row = (int)(chunk - loop->first_chunk[j]) * step;
    const int n_rows = job->w.n_rows - row < step ? job->w.n_rows - row : step;
    const size_t stride = (size_t)job->w.n_rows;
    float *y = job->y + row;
    multiply(loop->pass, job, loop->packed[j], &job->w, row, n_rows, y, stride, thread);
    if (!job->gated)
        return;
    const size_t n_pairs = (size_t)engine->batch_rows * (size_t)engine->model.n_used;
    float *up = engine->scratch.up_tile + (size_t)thread * n_pairs * CE_CHUNK_ROWS;
    multiply(loop->pass, job, loop->packed_up[j], &job->up, row, n_rows, up, (size_t)n_rows,
             thread);
    for (int t = 0; t < job->n_tokens; t++)
        engine->kernels.silu_mul(y + (size_t)t * stride, up + (size_t)t * (size_t)n_rows, n_rows);
}

static void count_calls(const ce_pass *pass, const ce_matmul_job *job) {
    atomic_fetch_add_explicit(&pass->engine->kernel_calls[pass->phase][job->w.type], 1,
                              memory_order_relaxed);
    if (job->gated)
        atomic_fetch_add_explicit(&pass->engine->kernel_calls[pass->phase][job->up.type], 1,
                                  memory_order_relaxed);
}

/* ---- Packing, for the kernels that want it ---- */

/* One input, packed in one way. */
typedef struct {
    const ce_packing *packing;
    const ce_matmul_job *job;
    uint8_t *to;
    int64_t first_group; /* of CE_PACK_TOKENS tokens, among those of all inputs */
} packed_input;

typedef struct {
    const ce_pass *pass;
    packed_input inputs[2 * CE_MAX_JOBS];
    int n_inputs;
    int64_t n_groups;
    uint8_t *next; /* free memory */
} pack_loop;

static size_t group_bytes(const packed_input *in) {
    return (size_t)(in->job->w.n_cols / CE_ACT_BLOCK) * (size_t)in->packing->block_bytes;
}

static void pack_chunk(void *ctx, int64_t group, int thread) {
    (void)thread;
    const pack_loop *loop = ctx;
    const packed_input *in = &loop->inputs[loop->n_inputs - 1];
    while (in->first_group > group)
        in--;
    const int64_t index = group - in->first_group;
    const int first = (int)index * CE_PACK_TOKENS, n_left = in->job->n_tokens - first;
    const ce_acts x = ce_acts_from(&in->job->x, first, in->job->w.n_cols);
    in->packing->pack(in->to + (size_t)index * group_bytes(in), &x,
                      n_left < CE_PACK_TOKENS ? n_left : CE_PACK_TOKENS, in->job->w.n_cols);
}

/* Where the job's input will be, packed for products with w; NULL if they read it as it is. Jobs
 * that share an input share what it is packed to. */
static const void *plan_packing(pack_loop *loop, const ce_matmul_job *job, const ce_matrix *w) {
    const ce_packing *packing = packing_for(loop->pass, w, job->n_tokens);
    if (packing == NULL)
        return NULL;
    for (int i = 0; i < loop->n_inputs; i++)
        if (loop->inputs[i].job->x.f32 == job->x.f32 && loop->inputs[i].packing == packing)
            return loop->inputs[i].to;
    packed_input *in = &loop->inputs[loop->n_inputs++];
    *in = (packed_input){packing, job, loop->next, loop->n_groups};
    const int64_t n_groups = (job->n_tokens + CE_PACK_TOKENS - 1) / CE_PACK_TOKENS;
    loop->n_groups += n_groups;
    loop->next += (size_t)n_groups * group_bytes(in);
    return in->to;
}

/* Packs the jobs' inputs, and notes where they are. */
static bool pack_inputs(matmul_loop *loop, int n_jobs) {
    pack_loop pack = {.pass = loop->pass, .next = loop->pass->engine->scratch.packed};
    for (int j = 0; j < n_jobs; j++) {
        const ce_matmul_job *job = &loop->jobs[j];
        loop->packed[j] = plan_packing(&pack, job, &job->w);
        loop->packed_up[j] = job->gated ? plan_packing(&pack, job, &job->up) : NULL;
    }
    return pack.n_groups == 0 || ce_pass_run(loop->pass, pack.n_groups, pack_chunk, &pack);
}

bool ce_matmul(const ce_pass *pass, const ce_matmul_job *jobs, int n_jobs) {
    const int n_threads = ce_pool_threads(pass->engine->pool);
    matmul_loop loop = {
        .pass = pass, .jobs = jobs, .chunk_bytes = choose_chunk_bytes(jobs, n_jobs, n_threads)};
    for (int j = 0; j < n_jobs; j++) {
        const int step = chunk_rows(&loop, &jobs[j]);
        loop.first_chunk[j + 1] = loop.first_chunk[j] + (jobs[j].w.n_rows + step - 1) / step;
        count_calls(pass, &jobs[j]);
    }
    return pack_inputs(&loop, n_jobs) &&
           ce_pass_run(pass, loop.first_chunk[n_jobs], matmul_chunk, &loop);
}

bool ce_reads_int8(const ce_pass *pass, const ce_act_rows *a) {
    return a->quantized && pass->engine->model.reads_int8[pass->phase];
}

void ce_quantize_row(const ce_pass *pass, ce_act_rows *a, int64_t row) {
    if (!ce_reads_int8(pass, a))
        return;
    const int64_t n_blocks = a->n_cols / CE_ACT_BLOCK;
    pass->engine->kernels.quantize_act(a->q + row * a->n_cols, a->scale + row * n_blocks,
                                       a->sums + row * n_blocks, a->f32 + row * a->n_cols,
                                       a->n_cols);
}

typedef struct {
    const ce_pass *pass;
    ce_act_rows *acts;
} quantize_loop;

static void quantize_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const quantize_loop *loop = ctx;
    ce_quantize_row(loop->pass, loop->acts, row);
}

bool ce_quantize_rows(const ce_pass *pass, ce_act_rows *a, int n_rows) {
    quantize_loop loop = {.pass = pass, .acts = a};
    return !ce_reads_int8(pass, a) || ce_pass_run(pass, n_rows, quantize_chunk, &loop);
}
