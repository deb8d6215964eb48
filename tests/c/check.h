/* What the C checks share: failures, random numbers, memory between guard pages, tiers, time. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE /* mmap's MAP_ANONYMOUS, clock_gettime, the names of registers */

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "dispatch.h"
#include "emulate_amx.h"

/* ---- Failures ---- */

static long check_count, failure_count;
static char check_subject[96]; /* the kernel under test; named when a check fails or crashes */

/* Counts a check; reports the first failures of a run. */
#define CHECK(ok, ...)                                                                             \
    do {                                                                                           \
        check_count++;                                                                             \
        if (!(ok) && ++failure_count <= 20) {                                                      \
            printf("FAILED %s: ", check_subject);                                                  \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

static void crashed(int signal_number) {
    static const char message[] = "FAILED (memory outside an operand was touched): ";
    ssize_t ignored = write(STDOUT_FILENO, message, sizeof message - 1);
    ignored = write(STDOUT_FILENO, check_subject, strlen(check_subject));
    ignored = write(STDOUT_FILENO, "\n", 1);
    (void)ignored;
    (void)signal_number;
    _exit(2);
}

static inline void report_crashes(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
}

static inline int summary(const char *program) {
    printf("%s: %ld checks, %ld failures\n", program, check_count, failure_count);
    return failure_count == 0 ? 0 : 1;
}

/* ---- Random numbers (xorshift64*, fixed seed) ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15;

static inline uint32_t random_bits(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1d) >> 32);
}

/* lo ... hi */
static inline int random_int(int lo, int hi) {
    return lo + (int)(random_bits() % (uint32_t)(hi - lo + 1));
}

/* -1 ... 1 */
static inline float random_float(void) { return (float)random_bits() * 0x1p-31f - 1.0f; }

static inline void random_bytes(void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)p)[i] = (uint8_t)random_bits();
    }
}

static inline void random_floats(float *p, size_t n, float amplitude) {
    for (size_t i = 0; i < n; i++) {
        p[i] = amplitude * random_float();
    }
}

/* ---- Memory between guard pages ---- */

/* Pages that may be used, with one that may not on each side. */
typedef struct {
    char *base;
    size_t size;
} guarded;

static inline guarded guarded_new(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t size = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + page, size, PROT_READ | PROT_WRITE) != 0) {
        perror("mmap");
        exit(2);
    }
    return (guarded){p + page, size};
}

/* Where an operand touches a guard page: at its end, or at its beginning. */
typedef enum { AT_END, AT_BEGINNING } placement;

/* `bytes` of the region, filled with `fill` as are 64 bytes on the side without a guard. */
static inline void *guarded_place(const guarded *g, placement where, size_t bytes, int fill) {
    char *p = where == AT_END ? g->base + g->size - bytes : g->base;
    const size_t room = g->size - bytes, margin = room < 64 ? room : 64;
    memset(where == AT_END ? p - margin : p, fill, bytes + margin);
    return p;
}

/* A copy of `bytes` at p that touches a guard page. */
static inline void *guarded_copy(const guarded *g, placement where, const void *p, size_t bytes) {
    return memcpy(guarded_place(g, where, bytes, 0xff), p, bytes);
}

/* ---- Tiers ---- */

/* The kernels of AMX on a CPU without, if $CHECK_EMULATED is set and the CPU has all else. */
static inline bool emulated_kernels(int i, ce_kernels *k) {
#if defined(__x86_64__)
    if (getenv("CHECK_EMULATED") != NULL && strcmp(ce_tier_name(i), "amx") == 0 &&
        ce_select_kernels("avx512vnni", k, NULL) == CE_OK && emulate_amx()) {
        ce_kernels_amx(k);
        return true;
    }
#endif
    (void)i;
    (void)k;
    return false;
}

/* The kernels of the i-th tier. False if this CPU cannot run it, or $CHECK_TIER names another. */
static inline bool tier_kernels(int i, ce_kernels *k) {
    const char *only = getenv("CHECK_TIER");
    if (only != NULL && strcmp(ce_tier_name(i), only) != 0) {
        return false;
    }
    return ce_tier_supported(i) ? ce_select_kernels(ce_tier_name(i), k, NULL) == CE_OK
                                : emulated_kernels(i, k);
}

/* How many of n random cases to check: a share of $CHECK_SHARE percent, one at least, where an
 * emulated CPU would take too long for all. */
static inline int share_of(int n) {
    const char *percent = getenv("CHECK_SHARE");
    return percent == NULL ? n : 1 + (n - 1) * atoi(percent) / 100;
}

/* ---- Time (of this process, so that others on the machine count less) ---- */

static inline double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
