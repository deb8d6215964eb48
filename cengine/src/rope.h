/* Rotary position embedding (arXiv:2104.09864) over interleaved pairs (2i, 2i + 1), the order of
 * GGUF `llama` files. */
#ifndef CE_ROPE_H
#define CE_ROPE_H

#include "engine.h"

/* inv_freq[i] = theta^(-2i / head_dim), i < head_dim / 2. */
void ce_rope_frequencies(float *inv_freq, int head_dim, float theta);

/* Cosines and sines of every row's angles, once per pass. */
void ce_rope_tables(const ce_pass *pass);

/* Rotates n_heads heads of one row in place. */
void ce_rope_rotate(float *heads, int n_heads, int head_dim, const float *cos, const float *sin);

#endif
