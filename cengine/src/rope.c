#include "rope.h"

#include <math.h>

/* Frequencies and angles are rounded to float32 as in the reference implementations: at position
 * 30,000 that moves an angle by up to 1e-3, and the models were trained with it. */
void ce_rope_frequencies(float *inv_freq, int head_dim, float theta) {
    for (int i = 0; i < head_dim / 2; i++)
        inv_freq[i] = (float)(1.0 / pow((double)theta, 2.0 * i / head_dim));
}

void ce_rope_tables(const ce_pass *pass) {
    const ce_scratch *s = &pass->engine->scratch;
    const int half = pass->engine->model.hp.head_dim / 2;
    for (int row = 0; row < pass->n_rows; row++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)s->position[row] * pass->engine->inv_freq[i];
            s->rope_cos[row * half + i] = (float)cos((double)angle);
            s->rope_sin[row * half + i] = (float)sin((double)angle);
        }
}

void ce_rope_rotate(float *heads, int n_heads, int head_dim, const float *cos, const float *sin) {
    for (int h = 0; h < n_heads; h++) {
        float *x = heads + h * head_dim;
        for (int i = 0; i < head_dim / 2; i++) {
            const float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cos[i] - b * sin[i];
            x[2 * i + 1] = a * sin[i] + b * cos[i];
        }
    }
}
