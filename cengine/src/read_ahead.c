/* Mapped files from a disk. A kernel that meets a page which is not in memory waits for that page
 * and a few behind it, and its thread computes nothing; somebody who walks ahead of it keeps the
 * disk busy. One of the few POSIX files. */
#define _DEFAULT_SOURCE
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cengine.h"

/* Whole pages that hold some bytes of a mapping. */
typedef struct {
    uint8_t *first;
    size_t n_bytes, page_bytes;
} page_span;

static page_span pages_of(const void *data, uint64_t n_bytes) {
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const size_t before = (uintptr_t)data % page_bytes;
    return (page_span){(uint8_t *)data - before, before + (size_t)n_bytes, page_bytes};
}

void ce_want_large_reads(const void *data, uint64_t n_bytes) {
    const page_span span = pages_of(data, n_bytes);
#ifdef MADV_HUGEPAGE
    madvise(span.first, span.n_bytes, MADV_HUGEPAGE);
#else
    (void)span;
#endif
}

#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22 /* Linux 5.14, younger than some C libraries */
#endif

#ifdef MADV_POPULATE_READ

/* As far as some pages can tell. */
static bool is_in_memory(page_span span) {
    const size_t step = 512 << 10;
    for (size_t at = 0; at < span.n_bytes; at += step) {
        unsigned char state = 0;
        if (mincore(span.first + at, span.page_bytes, &state) == 0 && (state & 1) == 0)
            return false;
    }
    return true;
}

/* What is in memory is left to who needs it: to map its pages from here would hold up the threads
 * that want other memory meanwhile. But between pages that are not, those that are must be touched
 * as well: the kernel has read them on its own account, and goes on so when they are met. */
int32_t ce_read_ahead(const void *data, uint64_t n_bytes) {
    const page_span span = pages_of(data, n_bytes);
    /* Older kernels refuse, and so do files that were truncated. */
    return is_in_memory(span) || madvise(span.first, span.n_bytes, MADV_POPULATE_READ) == 0;
}

#else

int32_t ce_read_ahead(const void *data, uint64_t n_bytes) {
    (void)data;
    (void)n_bytes;
    return 0;
}

#endif
