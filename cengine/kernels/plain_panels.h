/* Panels that keep columns as they come, with the rows in lanes: included after add_products. */
#ifndef CE_PLAIN_PANELS_H
#define CE_PLAIN_PANELS_H

/* A block's columns, in the order that add_panel_products() wants. */
INLINE void order_panel(bytes quants[8]) { (void)quants; }

INLINE void add_panel_products(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels,
                               int g0, int g1, const int8_t *q, int n_tokens, bool is_signed,
                               int max_quant) {
    add_products(sum, w, n_panels, g0, g1, q, n_tokens, is_signed, max_quant);
}

#endif
