/* The quantizers, in this tier's vectors: the same bytes, sooner. */
#include "avx2.h"
#include "quantize/quantizers.h"

void ce_avx2_quantize(ce_kernels *k) { overlay_quantizers(k); }
