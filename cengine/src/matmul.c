#include "matmul.h"

/* A chunk streams enough of a matrix to pay for handing it out and for the prefetch that runs past
 * its end, and little enough to be shared evenly and to answer a cancel at once. */
enum {
    MIN_CHUNK_BYTES = 64 * 1024,
    MAX_CHUNK_BYTES = 256 * 1024,
    CHUNKS_PER_THREAD = 16,
    ROW_GROUP = 16
};

typedef struct {
    const ce_pass *pass;
    const ce_matmul_job *jobs;
    uint64_t chunk_bytes;
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

static int chunk_rows(const matmul_loop *loop, const ce_matrix *w) {
    const uint64_t rows = loop->chunk_bytes / w->row_bytes / ROW_GROUP * ROW_GROUP;
    return rows < ROW_GROUP ? ROW_GROUP : rows > CE_CHUNK_ROWS ? CE_CHUNK_ROWS : (int)rows;
}

static void multiply(const ce_pass *pass, const ce_matmul_job *job, const ce_matrix *w, int row,
                     int n_rows, float *y, size_t y_stride) {
    pass->engine->kernels.matmul[pass->phase][w->type].run(y, y_stride, ce_matrix_row(w, row),
                                                           (size_t)w->row_bytes, n_rows, &job->x,
                                                           job->n_tokens, w->n_cols);
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
    multiply(loop->pass, job, &job->w, row, n_rows, y, stride);
    if (!job->gated)
        return;
    const size_t n_pairs = (size_t)engine->batch_rows * (size_t)engine->model.n_used;
    float *up = engine->scratch.up_tile + (size_t)thread * n_pairs * CE_CHUNK_ROWS;
    multiply(loop->pass, job, &job->up, row, n_rows, up, (size_t)n_rows);
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

bool ce_matmul(const ce_pass *pass, const ce_matmul_job *jobs, int n_jobs) {
    const int n_threads = ce_pool_threads(pass->engine->pool);
    matmul_loop loop = {
        .pass = pass, .jobs = jobs, .chunk_bytes = choose_chunk_bytes(jobs, n_jobs, n_threads)};
    for (int j = 0; j < n_jobs; j++) {
        const int step = chunk_rows(&loop, &jobs[j].w);
        loop.first_chunk[j + 1] = loop.first_chunk[j] + (jobs[j].w.n_rows + step - 1) / step;
        count_calls(pass, &jobs[j]);
    }
    return ce_pass_run(pass, loop.first_chunk[n_jobs], matmul_chunk, &loop);
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
