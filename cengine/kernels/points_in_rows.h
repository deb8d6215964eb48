/* Points come row by row: the tier looks none up for all rows at once. Included after *_points.h.
 */
#ifndef CE_POINTS_IN_ROWS_H
#define CE_POINTS_IN_ROWS_H

#include "rows_blocks.h"

INLINE bool has_points_in_columns(const block_format *f) {
    (void)f;
    return false;
}

INLINE void columns_of_points(bytes columns[8], const block_format *f, const span_points *p,
                              int b) {
    (void)columns;
    (void)f;
    (void)p;
    (void)b;
}

#endif
