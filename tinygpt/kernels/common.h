/* Shared by all kernels: the type of activations, GELU, one row of LayerNorm.

N rows, C columns; B batch, T time, H heads, D width of a head. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef int64_t int64;

enum { NO_MEMORY = 1, OUT_OF_RANGE = 2 }; /* error codes; 0 is success */

#ifdef BFLOAT16

typedef uint16_t real; /* bfloat16: the upper half of a float */

static inline float load(real x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest, ties to even. A NaN stays a NaN: the NaNs that arithmetic produces have a zero
lower half, so adding 0x7fff cannot carry into the sign. */
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

/* e^x with a relative error of 3e-7; x is clamped to [-87, 88]. x = n ln 2 + r, with ln 2 split in
two parts so that r is exact; e^r is its Taylor series, and 2^n is added to the exponent. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f); /* 1 / ln 2 */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float result = 1.0f / 720;
    result = result * r + 1.0f / 120;
    result = result * r + 1.0f / 24;
    result = result * r + 1.0f / 6;
    result = result * r + 0.5f;
    result = result * r + 1.0f;
    result = result * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &result, sizeof bits);
    bits += (uint32_t)(int32_t)n << 23;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Loops test inside of them whether an array is NULL. gcc vectorizes them only where it knows the answer:
EITHER inlines the call of such a function for both cases of `array`, a local variable. */
#ifndef INLINE /* the tests compile without it, which is faster */
#define INLINE static inline __attribute__((always_inline))
#endif
#define EITHER(array, ...)                                                                         \
    do {                                                                                           \
        if (array) {                                                                               \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            array = NULL;                                                                          \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* sum = x + update + bias (NULL: none). */
INLINE void add_row(const real *restrict update, const float *restrict bias,
                           const float *restrict x, float *restrict sum, int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++) sum[c] = load(update[c]) + x[c] + (bias ? bias[c] : 0);
}

/* LayerNorm, or RMSNorm, which subtracts no mean. gain, shift: NULL is 1, 0. */
typedef struct {
    const float *gain, *shift;
    float eps;
    int64 is_rms;
} norm_kind;

/* Mean (0 for RMSNorm) and 1 / standard deviation of a row. */
static inline void row_stats(const float *restrict x, norm_kind by, float *restrict mean,
                             float *restrict rstd, int64 width) {
    float sum = 0, squares = 0;
    if (!by.is_rms) {
#pragma omp simd reduction(+ : sum)
        for (int64 c = 0; c < width; c++) sum += x[c];
    }
    float centre = sum / width;
#pragma omp simd reduction(+ : squares)
    for (int64 c = 0; c < width; c++) squares += (x[c] - centre) * (x[c] - centre);
    *mean = centre;
    *rstd = 1 / sqrtf(squares / width + by.eps);
}

INLINE void scale_row(const float *restrict x, float mean, float rstd, const float *restrict gain,
                      const float *restrict shift, real *restrict normed, int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++)
        normed[c] = store((x[c] - mean) * rstd * (gain ? gain[c] : 1) + (shift ? shift[c] : 0));
}

static inline void norm_row(const float *restrict x, norm_kind by, real *restrict normed,
                            float *restrict mean, float *restrict rstd, int64 width) {
    const float *gain = by.gain, *shift = by.shift;
    row_stats(x, by, mean, rstd, width);
    EITHER(gain, EITHER(shift, scale_row(x, *mean, *rstd, gain, shift, normed, width)));
}

/* The tanh form of GELU and its derivative `slope`, using 1 + tanh(z / 2) = 2 sigmoid(z). */
static inline void gelu_of(float x, float *y, float *slope) {
    const float scale = 1.5957691216f, cubic = 0.044715f * scale; /* scale: 2 sqrt(2 / pi) */
    float inner = cubic * x * x, gate = 1 / (1 + exponential(-x * (scale + inner))),
          gated = x * gate;
    *y = gated;
    *slope = gate + (gated - gated * gate) * (scale + 3 * inner);
}

/* ReLU squared and its derivative. */
static inline void relu2_of(float x, float *y, float *slope) {
    float positive = x < 0 ? 0 : x; /* NaN stays */
    *y = positive * positive;
    *slope = 2 * positive;
}

/* SiLU, x sigmoid(x), and its derivative. */
static inline void silu_of(float x, float *y, float *slope) {
    float gate = 1 / (1 + exponential(-x)), gated = x * gate;
    *y = gated;
    *slope = gate + (gated - gated * gate);
}

/* x + 0.5 for x of 0 or more, sigmoid(x) below: a state that stays positive; and its derivative. */
static inline void positive_of(float x, float *y, float *slope) {
    float e = exponential(-x), sigmoid = 1 / (1 + e);
    *y = x < 0 ? sigmoid : x + 0.5f;
    *slope = x < 0 ? sigmoid * e * sigmoid : 1;
}

enum { STATES_PER_TASK = 64 }; /* numbers of a recurrence that one task follows through time */

INLINE void unscale_row(const real *restrict d, const float *restrict x, float mean, float rstd,
                        const float *restrict gain, int64 is_rms, const float *restrict residual,
                        float *restrict d_x, float *restrict sums, int64 width) {
    float *restrict d_gain = sums, *restrict d_shift = sums + width;
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64 c = 0; c < width; c++) {
        float unit = (x[c] - mean) * rstd, d_unit = load(d[c]) * (gain ? gain[c] : 1);
        sum += d_unit;
        dot += d_unit * unit;
        d_gain[c] += load(d[c]) * unit;
        d_shift[c] += load(d[c]);
    }
    sum = is_rms ? 0 : sum / width;
    dot /= width;
#pragma omp simd
    for (int64 c = 0; c < width; c++) {
        float unit = (x[c] - mean) * rstd, d_unit = load(d[c]) * (gain ? gain[c] : 1);
        d_x[c] = (d_unit - sum - unit * dot) * rstd + (residual ? residual[c] : 0);
    }
}

/* d_x = gradient of `norm_row` with respect to x, plus `residual` (NULL: none). Adds the gradients
of gain (first `width` floats) and shift (the next `width`) to `sums`. */
static inline void norm_backward_row(const real *restrict d, const float *restrict x, float mean,
                                     float rstd, norm_kind by, const float *residual,
                                     float *restrict d_x, float *restrict sums, int64 width) {
    const float *gain = by.gain;
    EITHER(gain, EITHER(residual, unscale_row(d, x, mean, rstd, gain, by.is_rms, residual, d_x,
                                              sums, width)));
}

/* Rows that are summed before their sum is added to the total: one running total in fp32 over many
rows would lose the low bits of later rows. */
enum { ROWS_PER_SUM = 128 };

/* Dropout. Whether element (row, column) is kept is a function of the key, the stream, row and column,
so that the backward finds the mask of the forward without storing it. `key` is drawn for each
forward; `stream` numbers the places of a model that drop. An element is dropped with probability
threshold / 65536; a threshold of 0 means that there is no dropout. */
typedef struct {
    int64 key, stream, threshold;
} dropout;

enum { DROPOUT_COLUMNS = 128 }; /* columns whose factors are computed together */

#ifdef __AVX2__

enum { LANES_PER_VECTOR = 4 };

/* Seven rounds of Philox on 4 lanes. Each lane is the lower half of 64 bits, which is what vpmuludq
reads; the upper half is not kept clean. */
static inline void philox(uint32_t words[4][16], int first, uint32_t key0, uint32_t key1) {
    __m256i x[4];
    for (int w = 0; w < 4; w++)
        x[w] = _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)(words[w] + first)));
    const __m256i factor0 = _mm256_set1_epi64x(0xD2511F53),
                  factor1 = _mm256_set1_epi64x(0xCD9E8D57);
    for (int round = 0; round < 7; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        __m256i a = _mm256_mul_epu32(x[0], factor0), b = _mm256_mul_epu32(x[2], factor1);
        x[0] = _mm256_xor_si256(_mm256_srli_epi64(b, 32),
                                _mm256_xor_si256(x[1], _mm256_set1_epi64x(key0)));
        x[2] = _mm256_xor_si256(_mm256_srli_epi64(a, 32),
                                _mm256_xor_si256(x[3], _mm256_set1_epi64x(key1)));
        x[1] = b;
        x[3] = a;
    }
    const __m256i lower = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    for (int w = 0; w < 4; w++)
        _mm_storeu_si128((__m128i *)(words[w] + first),
                         _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(x[w], lower)));
}

#else

enum { LANES_PER_VECTOR = 1 };

static inline void philox(uint32_t words[4][16], int i, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 7; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)words[0][i] * 0xD2511F53u, b = (uint64_t)words[2][i] * 0xCD9E8D57u;
        words[0][i] = (uint32_t)(b >> 32) ^ words[1][i] ^ key0;
        words[2][i] = (uint32_t)(a >> 32) ^ words[3][i] ^ key1;
        words[1][i] = (uint32_t)b;
        words[3][i] = (uint32_t)a;
    }
}

#endif

/* Factors of columns 128 group to 128 group + 127 of a row: 0, or 1 / (1 - probability).

Philox4x32-7: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", table 2. Lane i of 16
has the counter (16 group + i, row, row >> 32, stream). Half h of word w of its four decides about
column 32 w + 16 h + i of the group. */
static inline void dropout_factors(dropout by, int64 row, int64 group, float *restrict factors) {
    const float scale = 65536.0f / (65536 - by.threshold);
    const uint32_t threshold = (uint32_t)by.threshold;
    uint32_t words[4][16], key0 = (uint32_t)by.key, key1 = (uint32_t)((uint64_t)by.key >> 32);
    for (uint32_t i = 0; i < 16; i++) {
        words[0][i] = 16 * (uint32_t)group + i;
        words[1][i] = (uint32_t)row;
        words[2][i] = (uint32_t)((uint64_t)row >> 32);
        words[3][i] = (uint32_t)by.stream;
    }
    for (int first = 0; first < 16; first += LANES_PER_VECTOR) philox(words, first, key0, key1);
    for (int w = 0; w < 4; w++, factors += 32)
#pragma omp simd
        for (int i = 0; i < 16; i++) {
            factors[i] = (words[w][i] & 0xffff) < threshold ? 0 : scale;
            factors[i + 16] = words[w][i] >> 16 < threshold ? 0 : scale;
        }
}
