/* One of the few POSIX files: see pages.h. */
#define _DEFAULT_SOURCE
#include "pages.h"

#include <stddef.h>
#include <sys/mman.h>

void ce_want_huge_pages(void *p, uint64_t n_bytes) {
#ifdef MADV_HUGEPAGE
    madvise(p, (size_t)(n_bytes / CE_HUGE_PAGE * CE_HUGE_PAGE), MADV_HUGEPAGE);
#else
    (void)p;
    (void)n_bytes;
#endif
}
