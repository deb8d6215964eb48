/* The grids: the points of grid_points.h, spread to a byte per coordinate by the compiler. */
#include "grids.h"

#include "grid_points.h"

#define BYTE(value, i) ((uint64_t)((value) & 255) << (8 * (i)))

/* A point of 8 coordinates, each a level of three. */
#define DIGIT(code, i) ((code) >> (2 * (i)) & 3)
#define POINT_8(level, code)                                                                       \
    (BYTE(level(DIGIT(code, 0)), 0) | BYTE(level(DIGIT(code, 1)), 1) |                             \
     BYTE(level(DIGIT(code, 2)), 2) | BYTE(level(DIGIT(code, 3)), 3) |                             \
     BYTE(level(DIGIT(code, 4)), 4) | BYTE(level(DIGIT(code, 5)), 5) |                             \
     BYTE(level(DIGIT(code, 6)), 6) | BYTE(level(DIGIT(code, 7)), 7))

/* A point of 4 coordinates, each a level of eight. */
#define OCTAL_DIGIT(code, i) ((code) >> (3 * (i)) & 7)
#define POINT_4(level, code)                                                                       \
    (uint32_t)(BYTE(level(OCTAL_DIGIT(code, 0)), 0) | BYTE(level(OCTAL_DIGIT(code, 1)), 1) |       \
               BYTE(level(OCTAL_DIGIT(code, 2)), 2) | BYTE(level(OCTAL_DIGIT(code, 3)), 3))

#define FOUR_OF(point, level, a, b, c, d)                                                          \
    point(level, a), point(level, b), point(level, c), point(level, d)

#define IQ1_LEVEL(x)     (8 * (x) - 8)                  /* -8, 0, 8 */
#define IQ2_LEVEL(x)     (8 + 17 * (x) + ((x) >> 1))    /* 8, 25, 43 */
#define IQ3_XXS_LEVEL(x) (4 + 8 * (x) + 2 * ((x) == 7)) /* 4, 12 ... 52, 62 */
#define IQ3_S_LEVEL(x)   (2 * (x) + 1)                  /* 1, 3 ... 15 */

#define IQ1(a, b, c, d)     FOUR_OF(POINT_8, IQ1_LEVEL, a, b, c, d)
#define IQ2(a, b, c, d)     FOUR_OF(POINT_8, IQ2_LEVEL, a, b, c, d)
#define IQ3_XXS(a, b, c, d) FOUR_OF(POINT_4, IQ3_XXS_LEVEL, a, b, c, d)
#define IQ3_S(a, b, c, d)   FOUR_OF(POINT_4, IQ3_S_LEVEL, a, b, c, d)

const int8_t ce_iq4_numbers[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

const uint8_t ce_iq2_levels[16] = {
    [0] = IQ2_LEVEL(0), [1] = IQ2_LEVEL(1), [2] = IQ2_LEVEL(2),
    [4] = IQ2_LEVEL(1), [8] = IQ2_LEVEL(2),
};

#define EIGHT_LEVELS(level)                                                                        \
    level(0), level(1), level(2), level(3), level(4), level(5), level(6), level(7)

const uint8_t ce_iq3_xxs_levels[16] = {EIGHT_LEVELS(IQ3_XXS_LEVEL)};
const uint8_t ce_iq3_s_levels[16] = {EIGHT_LEVELS(IQ3_S_LEVEL)};

const uint32_t ce_iq3_xxs_grid[256] = {IQ3_XXS_POINTS(IQ3_XXS)};
const uint32_t ce_iq3_s_grid[512] = {IQ3_S_POINTS(IQ3_S)};
const uint64_t ce_iq2_xxs_grid[256] = {IQ2_XXS_POINTS(IQ2)};
const uint64_t ce_iq2_xs_grid[512] = {IQ2_XS_POINTS(IQ2)};
const uint64_t ce_iq2_s_grid[1024] = {IQ2_S_POINTS(IQ2)};
const uint64_t ce_iq1_grid[2048] = {IQ1_POINTS(IQ1)};
