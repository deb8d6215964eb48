/* x ~ scale * point with q an index of a table of points, or a signed integer itself: the types
 * without minima.
 *
 * As for the affine types: guesses of each sub-block's scale, polished by least squares; integer
 * scales around their optimum for a given d; d by least squares, and again.
 */
#ifndef CE_QUANTIZE_SCALED_H
#define CE_QUANTIZE_SCALED_H

#include "tile.h"

typedef struct {
    float low, high; /* of the points */
    /* NULL: every integer is a point. Else 16 points, ascending. */
    const int8_t *points;
    float scale_low, scale_high; /* integer scales; both 1: the block has d alone */
    int n_columns;
    int n_sub;
    float first, step; /* guesses: the value of largest magnitude becomes low - first - k * step */
    int n_guesses;     /* and as many with the opposite sign of the scale, at `high` */
    int n_rounds;
    weighting by;
} scaled_format;

typedef struct {
    float d[N_SUB];
    float scale[N_SUB];
    int8_t q[N_SUB][MAX_COLUMNS]; /* points */
} scaled_codes;

INLINE lanes nearest_point(lanes v, const scaled_format *f) {
    if (f->points == NULL) {
        return nearest(clamp(v, f->low, f->high));
    }
    lanes point = splat(f->low);
    for (int k = 1; k < 16; k++) {
        const float below = f->points[k - 1], above = f->points[k];
        const mask passed = v > (below + above) / 2;
        point += (lanes)(passed & (mask)splat(above - below));
    }
    return point;
}

typedef struct {
    lanes qq, xq;
} scaled_sums;

INLINE scaled_sums sum_scaled(const tile *t, const scaled_format *f, lanes inverse) {
    scaled_sums s = {splat(0), splat(0)};
    for (int c = 0; c < f->n_columns; c++) {
        const lanes q = nearest_point(t->x[c] * inverse, f);
        const lanes wq = t->w[c] * q;
        s.qq += wq * q;
        s.xq += wq * t->x[c];
    }
    return s;
}

/* 1 / v of either sign; 0 for 0. */
INLINE lanes reciprocal(lanes v) {
    const mask valid = v != 0;
    return select(valid, 1 / select(valid, v, splat(1)), splat(0));
}

INLINE lanes fit_scaled(const tile *t, const scaled_format *f) {
    lanes largest = t->x[0];
    for (int c = 1; c < f->n_columns; c++) {
        largest = select(lanes_abs(t->x[c]) > lanes_abs(largest), t->x[c], largest);
    }
    const lanes per_value = reciprocal(largest);
    lanes best = splat(-1), scale = largest / f->low;
    const int n = 2 * f->n_guesses;
    for (int k = 0; k < n + 2; k++) {
        const float beyond = f->first + (float)(k / 2) * f->step;
        const float target = k % 2 == 0 ? f->low - beyond : f->high + beyond;
        const lanes inverse = k < n ? per_value * target : reciprocal(scale);
        const scaled_sums s = sum_scaled(t, f, inverse);
        const lanes fitted = ratio(s.xq, s.qq);
        const lanes gain = fitted * s.xq;
        const mask better = gain > best;
        best = select(better, gain, best);
        scale = select(better, fitted, scale);
    }
    return scale;
}

INLINE lanes scaled_error(const tile *t, const scaled_format *f, lanes scale) {
    const lanes inverse = reciprocal(scale);
    lanes error = splat(0);
    for (int c = 0; c < f->n_columns; c++) {
        const lanes e = scale * nearest_point(t->x[c] * inverse, f) - t->x[c];
        error += t->w[c] * e * e;
    }
    return error;
}

INLINE lanes choose_scale(const tile *t, const scaled_format *f, lanes d, lanes scale,
                          lanes *int_scale) {
    const lanes around = nearest(clamp(scale * reciprocal(d), f->scale_low, f->scale_high));
    const int reach = f->scale_low < f->scale_high;
    lanes best = splat(__builtin_inff());
    for (int i = -reach; i <= reach; i++) {
        const lanes s = clamp(around + (float)i, f->scale_low, f->scale_high);
        const lanes error = scaled_error(t, f, d * s);
        const mask better = error < best;
        best = select(better, error, best);
        *int_scale = select(better, s, *int_scale);
    }
    return best;
}

INLINE void refit_scaled(const unit *u, const scaled_format *f, lanes d[N_TILES],
                         const lanes s[N_TILES]) {
    lanes aa[N_TILES], xa[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        const scaled_sums sums = sum_scaled(&u->tiles[i], f, reciprocal(d[i] * s[i]));
        aa[i] = s[i] * s[i] * sums.qq;
        xa[i] = s[i] * sums.xq;
    }
    sum_over_blocks(aa, f->n_sub);
    sum_over_blocks(xa, f->n_sub);
    for (int i = 0; i < N_TILES; i++) {
        d[i] = select(aa[i] > 0, ratio(xa[i], aa[i]), d[i]);
    }
}

/* Such that the largest scale of a block becomes the end of the integers' range. */
INLINE void first_d(lanes d[N_TILES], const lanes scale[N_TILES], const scaled_format *f) {
    for (int first = 0; first < N_SUB; first += f->n_sub) {
        float largest = 0;
        for (int j = first; j < first + f->n_sub; j++) {
            const float value = lane_of(scale, j);
            largest = __builtin_fabsf(value) > __builtin_fabsf(largest) ? value : largest;
        }
        for (int j = first; j < first + f->n_sub; j++) {
            d[j / LANES][j % LANES] = largest / f->scale_low;
        }
    }
}

INLINE void quantize_scaled(const unit *u, const scaled_format *f, scaled_codes *out) {
    lanes scale[N_TILES], d[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        scale[i] = fit_scaled(&u->tiles[i], f);
    }
    first_d(d, scale, f);
    lanes best[N_TILES], best_d[N_TILES], best_s[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        best[i] = splat(__builtin_inff());
        best_d[i] = best_s[i] = splat(0);
    }
    for (int round = 0; round < f->n_rounds; round++) {
        lanes error[N_TILES], s[N_TILES];
        for (int i = 0; i < N_TILES; i++) {
            d[i] = to_half_and_back(d[i]);
            s[i] = splat(0);
            error[i] = choose_scale(&u->tiles[i], f, d[i], scale[i], &s[i]);
        }
        sum_over_blocks(error, f->n_sub);
        for (int i = 0; i < N_TILES; i++) {
            const mask better = error[i] < best[i];
            best[i] = select(better, error[i], best[i]);
            best_d[i] = select(better, d[i], best_d[i]);
            best_s[i] = select(better, s[i], best_s[i]);
        }
        refit_scaled(u, f, d, s);
    }
    for (int i = 0; i < N_TILES; i++) {
        const lanes inverse = reciprocal(best_d[i] * best_s[i]);
        memcpy(out->d + i * LANES, &best_d[i], sizeof(lanes));
        memcpy(out->scale + i * LANES, &best_s[i], sizeof(lanes));
        for (int c = 0; c < f->n_columns; c++) {
            const lanes q = nearest_point(u->tiles[i].x[c] * inverse, f);
            for (int j = 0; j < LANES; j++) {
                out->q[i * LANES + j][c] = (int8_t)q[j];
            }
        }
    }
}

#endif
