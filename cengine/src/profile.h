/* Where the time of the passes goes. */
#ifndef CE_PROFILE_H
#define CE_PROFILE_H

#include "engine.h"

/* The clock of a pass starts. */
void ce_start_clock(ce_pass *pass);
/* What has passed since the last look at the clock was the operation's. */
void ce_clock(ce_pass *pass, ce_op op);

#endif
