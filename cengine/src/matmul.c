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
    const uint16_t *packed[CE_MAX_JOBS];  /* inputs of the jobs whose kernels want them so */
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
    return &pass->engine->kernels.matmul[pass->phase][w->type];
}

static int chunk_rows(const matmul_loop *loop, const ce_matrix *w) {
    const int least = kernel_of(loop->pass, w)->packed ? PACKED_ROWS : ROW_GROUP;
    const uint64_t rows = loop->chunk_bytes / w->row_bytes / (uint64_t)least * (uint64_t)least;
    return rows < (uint64_t)least ? least : rows > CE_CHUNK_ROWS ? CE_CHUNK_ROWS : (int)rows;
}

static void multiply(const matmul_loop *loop, int j, const ce_matrix *w, int row, int n_rows,
                     float *y, size_t y_stride) {
    ce_acts x = loop->jobs[j].x;
    x.packed = loop->packed[j];
    kernel_of(loop->pass, w)
        ->run(y, y_stride, ce_matrix_row(w, row), (size_t)w->row_bytes, n_rows, &x,
              loop->jobs[j].n_tokens, w->n_cols);
}

static void matmul_chunk(void *ctx, int64_t chunk, int thread) {
    const matmul_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    int j = 0;
    while (loop->first_chunk[j + 1] <= chunk)
        j++;
    const ce_matmul_job *job = &loop->jobs[j];
    const int step = chunk_rows(loop, &job->w);
    const int row = (int)(chunk - loop->first_chunk[j]) * step;
    const int n_rows = job->w.n_rows - row < step ? job->w.n_rows - row : step;
    const size_t stride = (size_t)job->w.n_rows;
    float *y = job->y + row;
    multiply(loop, j, &job->w, row, n_rows, y, stride);
    if (!job->gated)
        return;
    const size_t n_pairs = (size_t)engine->batch_rows * (size_t)engine->model.n_used;
    float *up = engine->scratch.up_tile + (size_t)thread * n_pairs * CE_CHUNK_ROWS;
    multiply(loop, j, &job->up, row, n_rows, up, (size_t)n_rows);
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

typedef struct {
    const ce_pass *pass;
    const ce_matmul_job *job[CE_MAX_JOBS];
    uint16_t *to[CE_MAX_JOBS];
    int64_t first_group[CE_MAX_JOBS + 1]; /* of each job; the last entry counts all groups */
    int n_jobs;
} pack_loop;

static void pack_chunk(void *ctx, int64_t group, int thread) {
    (void)thread;
    const pack_loop *loop = ctx;
    int j = 0;
    while (loop->first_group[j + 1] <= group)
        j++;
    const ce_matmul_job *job = loop->job[j];
    const int n_cols = job->w.n_cols;
    const int first = (int)(group - loop->first_group[j]) * CE_PACK_ROWS;
    const int n = job->n_tokens - first < CE_PACK_ROWS ? job->n_tokens - first : CE_PACK_ROWS;
    loop->pass->engine->kernels.pack_acts(loop->to[j] + (size_t)first * (size_t)n_cols,
                                          job->x.f32 + (size_t)first * (size_t)n_cols, n, n_cols);
}

/* Points loop->packed at the jobs' inputs, which jobs that follow each other may share. */
static bool pack_inputs(matmul_loop *loop, int n_jobs) {
    pack_loop pack = {.pass = loop->pass};
    uint16_t *to = loop->pass->engine->scratch.packed;
    for (int j = 0; j < n_jobs; j++) {
        const ce_matmul_job *job = &loop->jobs[j];
        if (!kernel_of(loop->pass, &job->w)->packed &&
            !(job->gated && kernel_of(loop->pass, &job->up)->packed))
            continue;
        if (pack.n_jobs > 0 && pack.job[pack.n_jobs - 1]->x.f32 == job->x.f32) {
            loop->packed[j] = pack.to[pack.n_jobs - 1];
            continue;
        }
        const int64_t n_groups = (job->n_tokens + CE_PACK_ROWS - 1) / CE_PACK_ROWS;
        loop->packed[j] = to;
        pack.job[pack.n_jobs] = job;
        pack.to[pack.n_jobs] = to;
        pack.first_group[pack.n_jobs + 1] = pack.first_group[pack.n_jobs] + n_groups;
        pack.n_jobs++;
        to += (size_t)n_groups * CE_PACK_ROWS * (size_t)job->w.n_cols;
    }
    return pack.n_jobs == 0 ||
           ce_pass_run(loop->pass, pack.first_group[pack.n_jobs], pack_chunk, &pack);
}

bool ce_matmul(const ce_pass *pass, const ce_matmul_job *jobs, int n_jobs) {
    const int n_threads = ce_pool_threads(pass->engine->pool);
    matmul_loop loop = {
        .pass = pass, .jobs = jobs, .chunk_bytes = choose_chunk_bytes(jobs, n_jobs, n_threads)};
    for (int j = 0; j < n_jobs; j++) {
        const int step = chunk_rows(&loop, &jobs[j].w);
        loop.first_chunk[j + 1] = loop.first_chunk[j] + (jobs[j].w.n_rows + step - 1) / step;
        count_calls(pass, &jobs[j]);
    }
    return pack_inputs(&loop, n_jobs) &&
           ce_pass_run(pass, loop.first_chunk[n_jobs], matmul_chunk, &loop);
}

void ce_quantize_row(const ce_engine *engine, ce_act_rows *a, int64_t row) {
    if (!a->quantized)
        return;
    const int64_t n_blocks = a->n_cols / CE_ACT_BLOCK;
    engine->kernels.quantize_act(a->q + row * a->n_cols, a->scale + row * n_blocks,
                                 a->sum + row * n_blocks, a->f32 + row * a->n_cols, a->n_cols);
}

typedef struct {
    const ce_engine *engine;
    ce_act_rows *acts;
} quantize_loop;

static void quantize_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const quantize_loop *loop = ctx;
    ce_quantize_row(loop->engine, loop->acts, row);
}

bool ce_quantize_rows(const ce_pass *pass, ce_act_rows *a, int n_rows) {
    quantize_loop loop = {.engine = pass->engine, .acts = a};
    return ce_pass_run(pass, n_rows, quantize_chunk, &loop);
}
