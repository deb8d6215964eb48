/* Showing an evaluation's insides to the tap that the caller has set. All do nothing without. */
#ifndef CE_TAP_H
#define CE_TAP_H

#include "engine.h"

/* All rows of the pass as they go into a matrix of the layer. */
void ce_tap_rows(const ce_pass *pass, ce_role role, int layer, const ce_act_rows *x);

/* The router's inputs and choices. Rows that failed are left out. */
void ce_tap_router(const ce_pass *pass, int layer);

/* Each expert's rows in turn; experts that no row chose are left out. */
void ce_tap_experts(const ce_pass *pass, ce_role role, int layer, const ce_act_rows *x);

#endif
