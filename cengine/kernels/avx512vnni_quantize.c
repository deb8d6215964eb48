/* The quantizers, in this tier's vectors: the same bytes, sooner. */
#include "avx512vnni.h"
#include "quantize/quantizers.h"

void ce_avx512vnni_quantize(ce_kernels *k) { overlay_quantizers(k); }
