/* What the kernels have in common: the type of activations, GELU, rows of LayerNorm.

N rows, C columns; B batch, T time, H heads, D width of a head. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t count;

enum { NO_MEMORY = 1, OUTSIDE = 2 }; /* what functions return if they cannot do it, else 0 */

#ifdef BFLOAT16

typedef uint16_t real; /* the upper half of a float */

static inline float load(real x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounded to the nearest, to the even one of two. A NaN stays one: those that arithmetic makes
have no lower half that could carry over into the sign. */
static inline real store(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (real)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#else

typedef float real;

static inline float load(real x) { return x; }
static inline real store(float value) { return value; }

#endif

/* e^x to 3e-7 of it, where x is at most 88; what is below e^-87 becomes that. x = n ln 2 + r, with
ln 2 in two parts so that r is exact; e^r is its Taylor series, 2^n goes into the exponent. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f); /* 1 / ln 2 */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float power = 1.0f / 720;
    power = power * r + 1.0f / 120;
    power = power * r + 1.0f / 24;
    power = power * r + 1.0f / 6;
    power = power * r + 0.5f;
    power = power * r + 1.0f;
    power = power * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &power, sizeof bits);
    bits += (uint32_t)(int32_t)n << 23;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline void add_row(const real *restrict update, const float *restrict bias,
                           const float *restrict x, float *restrict sum, count width) {
#pragma omp simd
    for (count c = 0; c < width; c++) sum[c] = load(update[c]) + x[c] + bias[c];
}

static inline void norm_row(const float *restrict x, const float *restrict gain,
                            const float *restrict shift, float eps, real *restrict normed,
                            float *restrict mean, float *restrict rstd, count width) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (count c = 0; c < width; c++) sum += x[c];
    float centre = sum / width;
#pragma omp simd reduction(+ : squares)
    for (count c = 0; c < width; c++) squares += (x[c] - centre) * (x[c] - centre);
    float factor = 1 / sqrtf(squares / width + eps);
#pragma omp simd
    for (count c = 0; c < width; c++)
        normed[c] = store((x[c] - centre) * factor * gain[c] + shift[c]);
    *mean = centre;
    *rstd = factor;
}

/* GELU in its tanh form, by 1 + tanh(z / 2) = 2 sigmoid(z), and its slope. */
static inline void gelu_of(float x, float *y, float *slope) {
    const float scale = 1.5957691216f, cubic = 0.044715f * scale; /* scale: 2 sqrt(2 / pi) */
    float bent = cubic * x * x, gate = 1 / (1 + exponential(-x * (scale + bent))), gated = x * gate;
    *y = gated;
    *slope = gate + (gated - gated * gate) * (scale + 3 * bent);
}

/* d_x is the gradient through `norm_row` plus `residual`; `sums`, the gradients of gain and then of
shift, are added to. */
static inline void norm_backward_row(const real *restrict d, const float *restrict x, float mean,
                                     float rstd, const float *restrict gain,
                                     const float *restrict residual, float *restrict d_x,
                                     float *restrict sums, count width) {
    float *restrict d_gain = sums, *restrict d_shift = sums + width;
    float sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
    for (count c = 0; c < width; c++) {
        float unit = (x[c] - mean) * rstd, d_unit = load(d[c]) * gain[c];
        sum += d_unit;
        along += d_unit * unit;
        d_gain[c] += load(d[c]) * unit;
        d_shift[c] += load(d[c]);
    }
    sum /= width;
    along /= width;
#pragma omp simd
    for (count c = 0; c < width; c++) {
        float unit = (x[c] - mean) * rstd;
        d_x[c] = (load(d[c]) * gain[c] - sum - unit * along) * rstd + residual[c];
    }
}

/* Rows whose sum is made by itself: a single running total would swallow what is added late. */
enum { ROWS_TOGETHER = 128 };
