/* Products of blocks of 32 x 32, on which those of matrices and attention are built.

A product is a sum over depth of what is left times what is right.  The rows of its result are the
lanes of what is left, its columns the lanes of what is right.  Both are packed first, in blocks of
32 lanes x 32 deep as the instructions want them: two tiles of 16 lanes.  What is not there is 0.
AVX-512 also takes what is left as it lies in memory (`rows_of` of products.c). */

#pragma once

#include "common.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

enum { LANES = 32, DEPTH = 32, TILE = 16 * 32, BLOCK = 2 * TILE };
enum { AHEAD = 2 }; /* blocks that memory comes near before they are packed */

#define LOG2_E 1.44269504f

#define INLINE static inline __attribute__((always_inline))

static inline count least(count a, count b) { return a < b ? a : b; }
static inline count blocks_of(count lanes) { return (lanes + LANES - 1) / LANES; }

/* Has memory come near before 32 rows of a block are read or, if so hinted, written. */
INLINE void fetch(const void *data, count size, count at, count stride, const int hint) {
    if (!data) return;
    const char *row = (const char *)data + at * size;
    for (count i = 0; i < LANES; i++, row += stride * size) {
        _mm_prefetch(row, hint);
        if (size == 4) _mm_prefetch(row + 64, hint);
    }
}

/* What follows is 16 elements at a time, of which `there` are. */
INLINE __mmask16 first_of(count there) {
    return there >= 16 ? 0xffff : there > 0 ? (1u << there) - 1 : 0;
}

INLINE __m512 load16(const real *from, count there) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of(there), from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* Two of them. */
typedef struct {
    __m512 low, high;
} pair;

INLINE pair load_floats(const float *from, count there) {
    return (pair){_mm512_maskz_loadu_ps(first_of(there), from),
                  _mm512_maskz_loadu_ps(first_of(there - 16), from + 16)};
}

INLINE pair load_reals(const real *from, count there) {
    return (pair){load16(from, there), load16(from + 16, there - 16)};
}

INLINE void store_floats(float *to, pair x, count there) {
    _mm512_mask_storeu_ps(to, first_of(there), x.low);
    _mm512_mask_storeu_ps(to + 16, first_of(there - 16), x.high);
}

/* A whole line of the cache where all are there. */
INLINE void store_reals(real *to, pair x, count there) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low);
    if (there >= 32)
        _mm512_storeu_si512(to, both);
    else
        _mm512_mask_storeu_epi16(to, (1u << there) - 1, both);
}

/* What is not read again soon does not need to come into the caches before it is written. */
INLINE void stream_reals(real *to, pair x, count there) {
    if (there >= 32 && (uintptr_t)to % 64 == 0)
        _mm512_stream_si512((void *)to, (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low));
    else
        store_reals(to, x, there);
}

INLINE pair same(float x) { return (pair){_mm512_set1_ps(x), _mm512_set1_ps(x)}; }

INLINE float sum_of(pair x) { return _mm512_reduce_add_ps(_mm512_add_ps(x.low, x.high)); }

INLINE pair plus(pair a, pair b) {
    return (pair){_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}

INLINE pair times(pair a, pair b) {
    return (pair){_mm512_mul_ps(a.low, b.low), _mm512_mul_ps(a.high, b.high)};
}

/* 2^x to 3e-6 of it; not of -infinity. Of the part below the whole number a polynomial, whose largest
relative error is the least that one of degree 4 can have. */
INLINE __m512 power_of_two(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, 1 /* what floor leaves */);
    __m512 power = _mm512_set1_ps(0.0135341678f);
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(0.0520114601f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(0.241442755f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(0.693003833f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(1.00000262f));
    return _mm512_scalef_ps(power, x); /* times 2 to the floor of x */
}

/* A matrix in memory: its rows are lanes, or `by_depth` its columns. */
typedef struct {
    const void *data;
    count stride, lanes, depth;
    int by_depth, is_float;
} matrix;

/* 32 lanes of what is left, packed or as they are in memory. */
typedef struct {
    const real *data;
    count stride, next; /* from a lane to the one after it, and from a block of depth */
} view;

static inline view in_blocks(const real *packed) { return (view){packed, DEPTH, BLOCK}; }

#ifdef __AMX_BF16__

typedef struct {
    uint8_t palette, start, unused[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tiles;

/* The tiles of this thread as `multiply` wants them; what they were before. */
static inline tiles begin_tiles(void) {
    tiles before, ours = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        ours.bytes_per_row[i] = 64;
        ours.rows[i] = 16;
    }
    _tile_storeconfig(&before);
    _tile_loadconfig(&ours);
    return before;
}

static inline void end_tiles(tiles before) {
    if (before.palette)
        _tile_loadconfig(&before);
    else
        _tile_release();
}

/* Into `out`, 32 x 32 with `stride`, the product of so many blocks of depth; `adds` it to what is
there. */
INLINE void multiply(view left, const real *right, count blocks, float *out, count stride,
                     int adds) {
    float *low = out + 16 * stride;
    count bytes = stride * sizeof(float), left_bytes = left.stride * sizeof(real);
    if (adds) {
        _tile_loadd(0, out, bytes);
        _tile_loadd(1, out + 16, bytes);
        _tile_loadd(2, low, bytes);
        _tile_loadd(3, low + 16, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (count b = 0; b < blocks; b++, left.data += left.next, right += BLOCK) {
        _tile_loadd(4, left.data, left_bytes);
        _tile_loadd(5, left.data + 16 * left.stride, left_bytes);
        _tile_loadd(6, right, 64);
        _tile_loadd(7, right + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, bytes);
    _tile_stored(1, out + 16, bytes);
    _tile_stored(2, low, bytes);
    _tile_stored(3, low + 16, bytes);
}

#else

typedef int tiles;
static inline tiles begin_tiles(void) { return 0; }
static inline void end_tiles(tiles before) { (void)before; }

enum { ROWS = 8 }; /* whose sums are in registers, two each */

INLINE void multiply(view left, const real *right, count blocks, float *out, count stride,
                     int adds) {
    for (int first = 0; first < LANES; first += ROWS, out += ROWS * stride) {
        __m512 sums[ROWS][2];
#pragma GCC unroll 16
        for (int i = 0; i < 2 * ROWS; i++)
            sums[i / 2][i % 2] = adds ? _mm512_loadu_ps(out + i / 2 * stride + i % 2 * 16)
                                      : _mm512_setzero_ps();
        const real *of_rows = left.data + first * left.stride, *of_columns = right;
        for (count b = 0; b < blocks; b++, of_rows += left.next, of_columns += BLOCK)
            for (int k = 0; k < DEPTH; k += 2) {
                __m512bh low = (__m512bh)_mm512_loadu_si512(of_columns + 16 * k);
                __m512bh high = (__m512bh)_mm512_loadu_si512(of_columns + TILE + 16 * k);
#pragma GCC unroll 16
                for (int i = 0; i < ROWS; i++) {
                    int32_t two;
                    memcpy(&two, of_rows + left.stride * i + k, sizeof two);
                    __m512bh row = (__m512bh)_mm512_set1_epi32(two);
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], row, low);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], row, high);
                }
            }
#pragma GCC unroll 16
        for (int i = 0; i < 2 * ROWS; i++)
            _mm512_storeu_ps(out + i / 2 * stride + i % 2 * 16, sums[i / 2][i % 2]);
    }
}

#endif

/* The same where only `height` x `width` are there. */
static inline void multiply_into(view left, const real *right, count blocks, float *out,
                                 count stride, count height, count width, int adds) {
    if (height == LANES && width == LANES) {
        multiply(left, right, blocks, out, stride, adds);
        return;
    }
    float sums[LANES * LANES] __attribute__((aligned(64)));
    multiply(left, right, blocks, sums, LANES, 0);
    for (count i = 0; i < height; i++)
        for (count j = 0; j < width; j++) {
            float *at = out + i * stride + j;
            *at = sums[i * LANES + j] + (adds ? *at : 0);
        }
}

/* 16 x 16 of 32 bits. */
INLINE void transpose(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* 32 elements of a row in memory, of which `there` are. */
INLINE __m512i load_row(const matrix *from, count row, count column, count there) {
    __mmask32 mask = there >= 32 ? ~0u : (1u << there) - 1;
    count at = row * from->stride + column;
    if (from->is_float) {
        const float *data = (const float *)from->data + at;
        return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask >> 16, data + 16),
                                            _mm512_maskz_loadu_ps(mask, data));
    }
    return _mm512_maskz_loadu_epi16(mask, (const real *)from->data + at);
}

/* 32 rows in memory, so many blocks along them from `column` on, each `step` after the one before. A
tile of what is left has lanes of 16 pairs, one of what is right has 16 pairs of lanes. */
INLINE void pack(const matrix *from, count row, count column, count blocks, real *to, count step,
                 int is_right) {
    /* element i of two rows side by side, i = 0 to 15 */
    const __m512i side_by_side = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35,
        3, 34, 2, 33, 1, 32, 0);
    const __m512i next_sixteen = _mm512_set1_epi16(16), none = _mm512_setzero_si512();
    count rows = from->by_depth ? from->depth : from->lanes;
    count columns = from->by_depth ? from->lanes : from->depth;
    count size = from->is_float ? sizeof(float) : sizeof(real);
    for (count end = column + blocks * DEPTH; column < end; column += DEPTH, to += step) {
        __m512i both[2][16];
        count there = columns - column;
        count ahead = column + AHEAD * DEPTH, later = ahead < end ? row : row + LANES;
        if (ahead >= end) ahead -= blocks * DEPTH;
        fetch(from->data, size, later * from->stride + ahead, from->stride, _MM_HINT_T0);
        if (from->by_depth) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                count r = row + 2 * i;
                __m512i one = r < rows ? load_row(from, r, column, there) : none;
                __m512i two = r + 1 < rows ? load_row(from, r + 1, column, there) : none;
                both[0][i] = _mm512_permutex2var_epi16(one, side_by_side, two);
                both[1][i] = _mm512_permutex2var_epi16(
                    one, _mm512_add_epi16(side_by_side, next_sixteen), two);
            }
        } else {
#pragma GCC unroll 16
            for (int i = 0; i < 32; i++)
                both[i / 16][i % 16] =
                    row + i < rows ? load_row(from, row + i, column, there) : none;
        }
        for (int half = 0; half < 2; half++) {
            if (from->by_depth != is_right) transpose(both[half]);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                _mm512_storeu_si512(to + half * TILE + 32 * i, both[half][i]);
        }
    }
}

static void pack_left(const matrix *from, count row, count column, count blocks, real *to,
                      count step) {
    pack(from, row, column, blocks, to, step, 0);
}

static void pack_right(const matrix *from, count row, count column, count blocks, real *to,
                       count step) {
    pack(from, row, column, blocks, to, step, 1);
}

/* Into `out` the sum of rows, in their order. */
static inline void add_up(const float *rows, float *restrict out, count n, count columns) {
    memset(out, 0, columns * sizeof(float));
    for (; n > 0; n--, rows += columns)
        for (count c = 0; c < columns; c++) out[c] += rows[c];
}

/* For so many blocks. */
static inline real *room_for(count blocks) {
    return aligned_alloc(64, blocks * BLOCK * sizeof(real));
}

#endif
