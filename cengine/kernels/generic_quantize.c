/* Quantizers in plain C: vectors of whatever width the compiler's target has. */
#include "generic.h"
#include "quantize/quantizers.h"

void ce_generic_quantize(ce_kernels *k) { overlay_quantizers(k); }
