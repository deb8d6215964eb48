#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "pages.h"

enum { LINE = 64 };

uint64_t ce_mul(uint64_t a, uint64_t b) {
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

uint64_t ce_add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t round_up(uint64_t n, uint64_t to) { return ce_add(n, to - 1) / to * to; }

static void *alloc_aligned(uint64_t alignment, uint64_t n_bytes) {
    const uint64_t size = round_up(n_bytes == 0 ? 1 : n_bytes, alignment);
    /* PTRDIFF_MAX is the largest object that C's pointer arithmetic can handle. */
    return size > (uint64_t)PTRDIFF_MAX ? NULL : aligned_alloc((size_t)alignment, (size_t)size);
}

void *ce_alloc(uint64_t n_bytes) { return alloc_aligned(LINE, n_bytes); }

void *ce_alloc_large(uint64_t n_bytes) {
    if (n_bytes < CE_HUGE_PAGE)
        return ce_alloc(n_bytes);
    void *p = alloc_aligned(CE_HUGE_PAGE, n_bytes);
    if (p != NULL)
        ce_want_huge_pages(p, n_bytes);
    return p;
}

void *ce_alloc_zeroed(uint64_t n_bytes) {
    void *p = ce_alloc(n_bytes);
    if (p != NULL)
        memset(p, 0, (size_t)n_bytes);
    return p;
}

void ce_free(void *p) { free(p); }

void *ce_arena_take(ce_arena *arena, uint64_t n, uint64_t size) {
    void *p = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used = ce_add(arena->used, round_up(ce_mul(n, size), LINE));
    return p;
}
