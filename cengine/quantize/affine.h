/* x ~ scale * q - offset with q in 0 ... n_max and offset >= 0: the K-quants that have minima.
 *
 * 1. Each sub-block on its own: for several guesses of the scale, codes by rounding, then the
 *    weighted least-squares scale and offset of these codes; the best guess is polished by
 *    repeating that with its own result (Lloyd's algorithm, on a lattice).
 * 2. A block's scales and offsets are integers times d and dmin. For given d and dmin, each
 *    sub-block tries the integers around its optimum and keeps the pair of the least error.
 * 3. With codes and integers given, d and dmin are a least-squares problem of two unknowns; 2 is
 *    repeated with its solution, and the best round is kept.
 */
#ifndef CE_QUANTIZE_AFFINE_H
#define CE_QUANTIZE_AFFINE_H

#include "tile.h"

typedef struct {
    float n_max;       /* the largest code */
    float scale_max;   /* the largest integer scale and offset */
    int n_columns;     /* of a sub-block */
    int n_sub;         /* sub-blocks of a block */
    float first, step; /* guesses of the scale: range / (n_max + first + k * step) ... */
    int n_guesses;
    int n_rounds; /* of steps 2 and 3 */
    weighting by;
} affine_format;

/* What a block is stored as, for all blocks of a unit. */
typedef struct {
    float d[N_SUB], dmin[N_SUB]; /* equal for all sub-blocks of a block, float16 values */
    float scale[N_SUB], offset[N_SUB];
    uint8_t q[N_SUB][MAX_COLUMNS];
} affine_codes;

/* Weighted sums over a sub-block's columns. */
typedef struct {
    lanes w, x, q, qq, xq;
} affine_sums;

INLINE lanes affine_code(lanes x, lanes inverse, lanes offset, float n_max) {
    return nearest(clamp((x + offset) * inverse, 0, n_max));
}

INLINE affine_sums sum_affine(const tile *t, int n, lanes inverse, lanes offset, float n_max) {
    affine_sums s = {splat(0), splat(0), splat(0), splat(0), splat(0)};
    for (int c = 0; c < n; c++) {
        const lanes q = affine_code(t->x[c], inverse, offset, n_max);
        const lanes wq = t->w[c] * q;
        s.w += t->w[c];
        s.x += t->w[c] * t->x[c];
        s.q += wq;
        s.qq += wq * q;
        s.xq += wq * t->x[c];
    }
    return s;
}

/* The least-squares scale and offset for the sums of given codes, and the gain: how much of
 * sum(w x^2) they explain. */
INLINE lanes solve_affine(const affine_sums *s, lanes *scale, lanes *offset) {
    const lanes det = s->w * s->qq - s->q * s->q;
    lanes a = ratio(s->w * s->xq - s->q * s->x, det);
    lanes b = ratio(a * s->q - s->x, s->w);
    const mask through_zero = (b < 0) | (det <= 0);
    a = select(through_zero, ratio(s->xq, s->qq), a);
    b = select(through_zero, splat(0), b);
    const mask all_codes_0 = s->qq <= 0; /* equal negative values, say: the offset alone */
    b = select(all_codes_0, lanes_max(ratio(-s->x, s->w), splat(0)), b);
    *scale = lanes_max(a, splat(0));
    *offset = b;
    return *scale * s->xq - b * s->x;
}

/* Step 1. */
INLINE void fit_affine(const tile *t, const affine_format *f, lanes *scale, lanes *offset) {
    lanes low = lanes_min(t->x[0], splat(0)), high = t->x[0];
    for (int c = 1; c < f->n_columns; c++) {
        low = lanes_min(low, t->x[c]);
        high = lanes_max(high, t->x[c]);
    }
    const lanes range = high - low;
    *scale = range / f->n_max;
    *offset = -low;
    lanes best = splat(-__builtin_inff());
    for (int k = 0; k < f->n_guesses + 2; k++) {
        const lanes guess = ratio(splat(f->n_max + f->first + (float)k * f->step), range);
        const int is_guess = k < f->n_guesses;
        const lanes inverse = is_guess ? guess : ratio(splat(1), *scale);
        const affine_sums s =
            sum_affine(t, f->n_columns, inverse, is_guess ? -low : *offset, f->n_max);
        lanes a, b;
        const lanes gain = solve_affine(&s, &a, &b);
        const mask better = gain > best;
        best = select(better, gain, best);
        *scale = select(better, a, *scale);
        *offset = select(better, b, *offset);
    }
}

INLINE lanes affine_error(const tile *t, int n, lanes scale, lanes offset, float n_max) {
    const lanes inverse = ratio(splat(1), scale);
    lanes error = splat(0);
    for (int c = 0; c < n; c++) {
        const lanes q = affine_code(t->x[c], inverse, offset, n_max);
        const lanes e = scale * q - offset - t->x[c];
        error += t->w[c] * e * e;
    }
    return error;
}

/* Step 2: integers for a tile, around the real optimum `scale`, `offset`; returns the error. */
INLINE lanes choose_integers(const tile *t, const affine_format *f, lanes d, lanes dmin,
                             lanes scale, lanes offset, lanes *int_scale, lanes *int_offset) {
    lanes w = splat(0), x = splat(0);
    for (int c = 0; c < f->n_columns; c++) {
        w += t->w[c];
        x += t->w[c] * t->x[c];
    }
    const lanes mean_code = ratio(ratio(x, w) + offset, scale);
    const lanes nearest_scale = nearest(clamp(ratio(scale, d), 0, f->scale_max));
    lanes best = splat(__builtin_inff());
    for (int i = -1; i <= 1; i++) {
        const lanes s = clamp(nearest_scale + (float)i, 0, f->scale_max);
        /* A larger scale wants a larger offset, so that the mean stays where it is. */
        const lanes wanted = offset + (d * s - scale) * mean_code;
        const lanes nearest_offset = nearest(clamp(ratio(wanted, dmin), 0, f->scale_max));
        for (int k = -1; k <= 1; k++) {
            const lanes m = clamp(nearest_offset + (float)k, 0, f->scale_max);
            const lanes error = affine_error(t, f->n_columns, d * s, dmin * m, f->n_max);
            const mask better = error < best;
            best = select(better, error, best);
            *int_scale = select(better, s, *int_scale);
            *int_offset = select(better, m, *int_offset);
        }
    }
    return best;
}

/* Step 3: new d and dmin for each block. */
INLINE void refit_affine(const unit *u, const affine_format *f, lanes d[N_TILES],
                         lanes dmin[N_TILES], const lanes s[N_TILES], const lanes m[N_TILES]) {
    lanes aa[N_TILES], ab[N_TILES], bb[N_TILES], xa[N_TILES], xb[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        const lanes inverse = ratio(splat(1), d[i] * s[i]);
        const affine_sums sums =
            sum_affine(&u->tiles[i], f->n_columns, inverse, dmin[i] * m[i], f->n_max);
        aa[i] = s[i] * s[i] * sums.qq;
        ab[i] = s[i] * m[i] * sums.q;
        bb[i] = m[i] * m[i] * sums.w;
        xa[i] = s[i] * sums.xq;
        xb[i] = m[i] * sums.x;
    }
    lanes *const all[] = {aa, ab, bb, xa, xb};
    for (int k = 0; k < 5; k++) {
        sum_over_blocks(all[k], f->n_sub);
    }
    for (int i = 0; i < N_TILES; i++) {
        const lanes det = aa[i] * bb[i] - ab[i] * ab[i];
        const lanes new_d = ratio(xa[i] * bb[i] - xb[i] * ab[i], det);
        const lanes new_dmin = ratio(xa[i] * ab[i] - xb[i] * aa[i], det);
        const mask valid = (new_d > 0) & (new_dmin > 0);
        d[i] = select(valid, new_d, select(new_d > 0, d[i], ratio(xa[i], aa[i])));
        dmin[i] = select(valid, new_dmin, dmin[i]);
    }
}

/* The largest of a block, in each of its sub-blocks' lanes. */
INLINE void max_over_blocks(lanes out[N_TILES], const lanes v[N_TILES], int n_sub) {
    for (int first = 0; first < N_SUB; first += n_sub) {
        float largest = 0;
        for (int j = first; j < first + n_sub; j++) {
            const float value = lane_of(v, j);
            largest = value > largest ? value : largest;
        }
        for (int j = first; j < first + n_sub; j++) {
            out[j / LANES][j % LANES] = largest;
        }
    }
}

INLINE void quantize_affine(const unit *u, const affine_format *f, affine_codes *out) {
    lanes scale[N_TILES], offset[N_TILES], d[N_TILES], dmin[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        fit_affine(&u->tiles[i], f, &scale[i], &offset[i]);
    }
    max_over_blocks(d, scale, f->n_sub);
    max_over_blocks(dmin, offset, f->n_sub);
    for (int i = 0; i < N_TILES; i++) {
        d[i] /= f->scale_max;
        dmin[i] /= f->scale_max;
    }
    lanes best[N_TILES], best_d[N_TILES], best_dmin[N_TILES], best_s[N_TILES], best_m[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        best[i] = splat(__builtin_inff());
        best_d[i] = best_dmin[i] = best_s[i] = best_m[i] = splat(0);
    }
    for (int round = 0; round < f->n_rounds; round++) {
        lanes error[N_TILES], s[N_TILES], m[N_TILES];
        for (int i = 0; i < N_TILES; i++) {
            d[i] = to_half_and_back(d[i]);
            dmin[i] = to_half_and_back(dmin[i]);
            s[i] = m[i] = splat(0);
            error[i] =
                choose_integers(&u->tiles[i], f, d[i], dmin[i], scale[i], offset[i], &s[i], &m[i]);
        }
        sum_over_blocks(error, f->n_sub);
        for (int i = 0; i < N_TILES; i++) {
            const mask better = error[i] < best[i];
            best[i] = select(better, error[i], best[i]);
            best_d[i] = select(better, d[i], best_d[i]);
            best_dmin[i] = select(better, dmin[i], best_dmin[i]);
            best_s[i] = select(better, s[i], best_s[i]);
            best_m[i] = select(better, m[i], best_m[i]);
        }
        refit_affine(u, f, d, dmin, s, m);
    }
    for (int i = 0; i < N_TILES; i++) {
        const lanes s = best_d[i] * best_s[i], m = best_dmin[i] * best_m[i];
        const lanes inverse = ratio(splat(1), s);
        memcpy(out->d + i * LANES, &best_d[i], sizeof(lanes));
        memcpy(out->dmin + i * LANES, &best_dmin[i], sizeof(lanes));
        memcpy(out->scale + i * LANES, &best_s[i], sizeof(lanes));
        memcpy(out->offset + i * LANES, &best_m[i], sizeof(lanes));
        for (int c = 0; c < f->n_columns; c++) {
            const lanes q = affine_code(u->tiles[i].x[c], inverse, m, f->n_max);
            for (int j = 0; j < LANES; j++) {
                out->q[i * LANES + j][c] = (uint8_t)q[j];
            }
        }
    }
}

#endif
