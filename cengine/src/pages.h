/* The operating system's pages under large blocks. */
#ifndef CE_PAGES_H
#define CE_PAGES_H

#include <stdint.h>

enum { CE_HUGE_PAGE = 2 << 20 };

/* Asks for huge pages under n_bytes at p, which is aligned to CE_HUGE_PAGE; a last part of a page
 * is left as it is, so that no more memory is taken than asked for. Where the system grants none,
 * small ones do. */
void ce_want_huge_pages(void *p, uint64_t n_bytes);

#endif
