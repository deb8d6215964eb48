/* The speed of the matmul kernels, on weights of random bits: from memory, beside a plain read of
 * it by the same threads in the same round, and from a core's own cache, where arithmetic alone
 * counts. Medians over interleaved rounds. See usage below. */
#define _DEFAULT_SOURCE /* getopt, clock_gettime */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dispatch.h"
#include "pool.h"
#include "repack.h"

static const char usage[] =
    "Usage: bench_kernels [-t THREADS] [-n TOKENS[,TOKENS]...] [-r ROUNDS] [-m MB] [NAME]\n"
    "\n"
    "Measures the kernels whose name (type/tier/phase, as q4_K/avx2/prompt) has NAME in it.\n"
    "\n"
    "  -t  threads  [default: the cores]\n"
    "  -n  tokens that the weights are multiplied with at once  [default: 1,8,256]\n"
    "  -r  rounds  [default: 9]\n"
    "  -m  weights in memory, MB: more than all caches hold  [default: 1024]\n"
    "\n"
    "Example: bench_kernels -n 1,2,4 -r 15 q6_K/avx512vnni\n";

enum {
    COLS = 4096,
    CHUNK_ROWS = 128,
    CACHE_ROWS = 64, /* 64 x 4096 weights of 8 bits, the largest, fit an L2 of 512 KB */
    MAX_TOKENS = 4096,
    MAX_TOKEN_COUNTS = 8,
    MAX_ROUNDS = 1000,
    MAX_TIERS = 8,
    MAX_RACERS = 512,
    MIN_MB = 16,
    READ_CHUNK = 1 << 20
};

static const double SECONDS_EACH = 0.1; /* about so long a kernel works in a round, twice */

typedef struct {
    int n_threads, n_rounds;
    int n_tokens[MAX_TOKEN_COUNTS], n_token_counts;
    size_t bytes; /* of the weights in memory */
    const char *name;
} options;

/* A kernel and its input. */
typedef struct {
    const ce_matmul_kernel *kernel;
    size_t row_bytes;
    int n_tokens;
    ce_acts x;
    int64_t n_chunks, n_cached; /* in a round */
    double of_read[MAX_ROUNDS];
    double from_memory[MAX_ROUNDS], from_cache[MAX_ROUNDS]; /* bytes / s */
} racer;

static options chosen;
static ce_kernels widest; /* of the best tier, which reads fastest */
static ce_kernels tiers[MAX_TIERS];
static ce_pool *pool;
static uint8_t *weights;
static ce_acts tokens; /* as many as the most that were asked for, not packed */
static racer *racers[MAX_RACERS];
static int n_racers;
static double read_speed[MAX_ROUNDS]; /* bytes / s */

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "bench_kernels: %s\n", what);
    exit(2);
}

static void *allocate(size_t n) {
    void *p = aligned_alloc(CE_REPACK_ALIGNMENT, (n + CE_REPACK_ALIGNMENT - 1) /
                                                     CE_REPACK_ALIGNMENT * CE_REPACK_ALIGNMENT);
    if (p == NULL) {
        fail("out of memory; -m takes less");
    }
    return p;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Weights and tokens ---- */

/* Random bits, of which no half float is infinite or no number. */
static void fill_weights(void) {
    uint64_t state = 0x9e3779b97f4a7c15; /* xorshift64 */
    for (size_t i = 0; i < chosen.bytes / sizeof state; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((uint64_t *)weights)[i] = state & 0x3bff3bff3bff3bff;
    }
}

static int most_tokens(void) {
    int most = 0;
    for (int i = 0; i < chosen.n_token_counts; i++) {
        most = chosen.n_tokens[i] > most ? chosen.n_tokens[i] : most;
    }
    return most;
}

static ce_acts make_tokens(int n_tokens) {
    const size_t n = (size_t)n_tokens * COLS;
    float *f32 = allocate(n * sizeof *f32), *scale = allocate(n / CE_ACT_BLOCK * sizeof *scale);
    int8_t *q = allocate(n);
    ce_act_sums *sums = allocate(n / CE_ACT_BLOCK * sizeof *sums);
    for (size_t i = 0; i < n; i++) {
        f32[i] = (float)((int)(i * 37 % 255) - 127) / 127;
    }
    for (int t = 0; t < n_tokens; t++) {
        const size_t at = (size_t)t * COLS, block = at / CE_ACT_BLOCK;
        widest.quantize_act(q + at, scale + block, sums + block, f32 + at, COLS);
    }
    return (ce_acts){.f32 = f32, .q = q, .scale = scale, .sums = sums};
}

/* The first n_tokens, as the kernel wants them. */
static ce_acts tokens_for(const ce_matmul_kernel *kernel, int n_tokens) {
    ce_acts x = tokens;
    const ce_packing *packing = kernel->packing;
    if (packing == NULL || n_tokens < packing->min_tokens) {
        return x;
    }
    const size_t n_blocks = COLS / CE_ACT_BLOCK, group = n_blocks * (size_t)packing->block_bytes;
    uint8_t *packed = allocate((size_t)(n_tokens + CE_PACK_TOKENS - 1) / CE_PACK_TOKENS * group);
    for (int t = 0; t < n_tokens; t += CE_PACK_TOKENS) {
        const ce_acts from = ce_acts_from(&x, t, COLS);
        const int n_left = n_tokens - t;
        packing->pack(packed + (size_t)(t / CE_PACK_TOKENS) * group, &from,
                      n_left < CE_PACK_TOKENS ? n_left : CE_PACK_TOKENS, COLS);
    }
    x.packed = packed;
    return x;
}

/* ---- Who races ---- */

/* A kernel that serves both phases, or a higher tier too, races once. */
static bool is_racing(const ce_matmul_kernel *kernel) {
    for (int i = 0; i < n_racers; i++) {
        if (racers[i]->kernel->run == kernel->run) {
            return true;
        }
    }
    return false;
}

static void add_kernel(const ce_matmul_kernel *kernel, int type) {
    if (kernel->run == NULL || strstr(kernel->name, chosen.name) == NULL || is_racing(kernel)) {
        return;
    }
    for (int i = 0; i < chosen.n_token_counts; i++) {
        if (n_racers == MAX_RACERS) {
            fail("too many kernels at once; give a longer NAME");
        }
        racer *r = racers[n_racers++] = allocate(sizeof *r);
        r->kernel = kernel;
        r->row_bytes = (size_t)ce_row_bytes(type, COLS);
        r->n_tokens = chosen.n_tokens[i];
        r->x = tokens_for(kernel, r->n_tokens);
    }
}

/* Every kernel of every tier that this CPU runs. */
static void add_kernels(void) {
    for (int tier = 0; ce_tier_name(tier) != NULL; tier++) {
        ce_kernels *k = &tiers[tier];
        if (!ce_tier_supported(tier) || ce_select_kernels(ce_tier_name(tier), k, NULL) != CE_OK) {
            continue;
        }
        for (int type = 0; type < CE_MAX_TYPE; type++) {
            for (int phase = 0; phase < CE_N_PHASES; phase++) {
                add_kernel(&k->matmul[phase][type], type);
                add_kernel(&k->repacked[phase][type], type);
            }
        }
    }
}

/* ---- Measuring ---- */

/* A thread's own memory. */
typedef struct {
    float *y; /* [n_tokens][CHUNK_ROWS] */
    void *work;
    uint8_t *cached; /* CACHE_ROWS rows of any type */
} thread_memory;

static thread_memory *memory_of; /* [n_threads] */

static void make_thread_memory(void) {
    const size_t n_cached = (size_t)CACHE_ROWS * COLS * sizeof(float); /* the largest type's */
    memory_of = allocate((size_t)chosen.n_threads * sizeof *memory_of);
    for (int i = 0; i < chosen.n_threads; i++) {
        memory_of[i] =
            (thread_memory){.y = allocate((size_t)most_tokens() * CHUNK_ROWS * sizeof(float)),
                            .work = allocate(CE_WORK_BYTES),
                            .cached = memcpy(allocate(n_cached), weights, n_cached)};
    }
}

static void run_kernel(const racer *r, const uint8_t *w, int n_rows, int thread) {
    const thread_memory *m = &memory_of[thread];
    r->kernel->run(m->y, CHUNK_ROWS, w, r->row_bytes, n_rows, &r->x, r->n_tokens, COLS, m->work);
}

static void multiply_chunk(void *ctx, int64_t chunk, int thread) {
    const racer *r = ctx;
    run_kernel(r, weights + (size_t)chunk * CHUNK_ROWS * r->row_bytes, CHUNK_ROWS, thread);
}

static void multiply_cached(void *ctx, int64_t chunk, int thread) {
    (void)chunk;
    run_kernel(ctx, memory_of[thread].cached, CACHE_ROWS, thread);
}

static void read_chunk(void *ctx, int64_t chunk, int thread) {
    (void)ctx;
    (void)thread;
    widest.read(weights + (size_t)chunk * READ_CHUNK, READ_CHUNK);
}

static double seconds_of(int64_t n_chunks, ce_chunk_fn *fn, void *ctx) {
    const double start = seconds();
    ce_pool_run(pool, n_chunks, fn, ctx, NULL);
    return seconds() - start;
}

/* How many chunks take about SECONDS_EACH: at most `most`. */
static int64_t choose_chunks(ce_chunk_fn *fn, racer *r, int64_t most) {
    int64_t n = chosen.n_threads < most ? chosen.n_threads : most;
    double took = seconds_of(n, fn, r);
    while (took < SECONDS_EACH / 2 && n < most) {
        n = n * 2 < most ? n * 2 : most;
        took = seconds_of(n, fn, r);
    }
    return n;
}

static int64_t chunks_in_memory(const racer *r) {
    return (int64_t)(chosen.bytes / (CHUNK_ROWS * r->row_bytes));
}

static void run_round(int round) {
    const int64_t n_reads = (int64_t)(chosen.bytes / READ_CHUNK);
    const double read = (double)n_reads * READ_CHUNK / seconds_of(n_reads, read_chunk, NULL);
    for (int i = 0; i < n_racers; i++) {
        racer *r = racers[i];
        const double bytes = (double)r->n_chunks * CHUNK_ROWS * (double)r->row_bytes;
        const double cached = (double)r->n_cached * CACHE_ROWS * (double)r->row_bytes;
        r->from_memory[round] = bytes / seconds_of(r->n_chunks, multiply_chunk, r);
        r->of_read[round] = r->from_memory[round] / read;
        r->from_cache[round] = cached / seconds_of(r->n_cached, multiply_cached, r);
    }
    read_speed[round] = read;
}

/* ---- What it gave ---- */

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static double median(double *values) {
    qsort(values, (size_t)chosen.n_rounds, sizeof *values, compare);
    return values[chosen.n_rounds / 2];
}

static void report(void) {
    printf("plain read (%s), %d threads: %.1f GB/s\n\n", widest.tier, chosen.n_threads,
           1e-9 * median(read_speed));
    printf("%-40s %6s  %18s  %25s\n", "kernel", "tokens", "from memory", "from cache, all threads");
    for (int i = 0; i < n_racers; i++) {
        racer *r = racers[i];
        const double cached = 1e-9 * median(r->from_cache);
        printf("%-40s %6d  %6.2f GB/s, %5.3f  %6.2f GB/s, %7.2f GMAC/s\n", r->kernel->name,
               r->n_tokens, 1e-9 * median(r->from_memory), median(r->of_read), cached,
               cached * COLS / (double)r->row_bytes * r->n_tokens);
    }
}

/* ---- The program ---- */

/* least ... most, or the end of the program. */
static int parse_number(const char *text, int least, int most) {
    char *end;
    const long n = strtol(text, &end, 10);
    if (end == text || (*end != '\0' && *end != ',') || n < least || n > most) {
        fprintf(stderr, "bench_kernels: '%s' is not a number from %d to %d\n", text, least, most);
        exit(2);
    }
    return (int)n;
}

static void parse_token_counts(const char *text) {
    chosen.n_token_counts = 0;
    for (const char *at = text; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (chosen.n_token_counts == MAX_TOKEN_COUNTS) {
            fail("too many numbers of tokens");
        }
        chosen.n_tokens[chosen.n_token_counts++] = parse_number(at, 1, MAX_TOKENS);
    }
}

static void parse_options(int argc, char **argv) {
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    chosen = (options){.n_threads = n_cores > 0 ? (int)n_cores : 1,
                       .n_rounds = 9,
                       .n_tokens = {1, 8, 256},
                       .n_token_counts = 3,
                       .bytes = (size_t)1024 << 20,
                       .name = ""};
    for (int option; (option = getopt(argc, argv, "t:n:r:m:h")) != -1;) {
        switch (option) {
        case 't':
            chosen.n_threads = parse_number(optarg, 1, 1024);
            break;
        case 'n':
            parse_token_counts(optarg);
            break;
        case 'r':
            chosen.n_rounds = parse_number(optarg, 1, MAX_ROUNDS);
            break;
        case 'm':
            chosen.bytes = (size_t)parse_number(optarg, MIN_MB, 1 << 20) << 20;
            break;
        default:
            fputs(usage, option == 'h' ? stdout : stderr);
            exit(option == 'h' ? 0 : 2);
        }
    }
    if (optind < argc) {
        chosen.name = argv[optind];
    }
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    if (ce_select_kernels(NULL, &widest, NULL) != CE_OK ||
        ce_pool_create(chosen.n_threads, &pool, NULL) != CE_OK ||
        ce_pool_lock(pool, NULL, NULL) != CE_OK) {
        fail("cannot start the threads");
    }
    weights = allocate(chosen.bytes);
    fill_weights();
    tokens = make_tokens(most_tokens());
    make_thread_memory();
    add_kernels();
    if (n_racers == 0) {
        fail("no kernel has that name");
    }
    for (int i = 0; i < n_racers; i++) {
        racers[i]->n_chunks = choose_chunks(multiply_chunk, racers[i], chunks_in_memory(racers[i]));
        racers[i]->n_cached = choose_chunks(multiply_cached, racers[i], INT64_MAX / 4);
    }
    for (int round = 0; round < chosen.n_rounds; round++) {
        if (isatty(STDERR_FILENO)) {
            fprintf(stderr, "\rround %d of %d\r", round + 1, chosen.n_rounds);
        }
        run_round(round);
    }
    report();
    return 0;
}
