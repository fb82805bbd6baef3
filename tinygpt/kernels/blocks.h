/* The 32 x 32 block product, on which matrix products and attention are built.

out[i][j] = sum over k of left[i][k] * right[j][k]: i and j are "lanes" (rows of an operand), k is
"depth".  Both operands are first packed into blocks of 32 lanes x 32 deep, in the layout that the
instructions read: two tiles of 16 lanes.  Blocks at an edge are padded with zeros.  With AVX-512
the left operand may also be read unpacked (`rows_of` in products.c). */

#pragma once

#include "common.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

enum { LANES = 32, DEPTH = 32, TILE = 16 * 32, BLOCK = 2 * TILE };
enum { PREFETCH_BLOCKS = 2 }; /* how many blocks ahead `pack` prefetches */

#define LOG2_E 1.44269504f

static inline int64 min(int64 a, int64 b) { return a < b ? a : b; }
static inline int64 n_blocks(int64 lanes) { return (lanes + LANES - 1) / LANES; }

/* Prefetch 32 rows of a block, for reading or writing as `hint` says. */
INLINE void prefetch(const void *data, int64 size, int64 at, int64 stride, const int hint) {
    if (!data) return;
    const char *row = (const char *)data + at * size;
    for (int64 i = 0; i < LANES; i++, row += stride * size) {
        _mm_prefetch(row, hint);
        if (size == 4) _mm_prefetch(row + 64, hint);
    }
}

/* Vectors below hold 16 elements, of which the first `n_valid` exist; the others read as 0. */
INLINE __mmask16 mask_of(int64 n_valid) {
    return n_valid >= 16 ? 0xffff : n_valid > 0 ? (1u << n_valid) - 1 : 0;
}

INLINE __m512 load16(const real *from, int64 n_valid) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask_of(n_valid), from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* 32 floats. */
typedef struct {
    __m512 low, high;
} pair;

INLINE pair load_floats(const float *from, int64 n_valid) {
    return (pair){_mm512_maskz_loadu_ps(mask_of(n_valid), from),
                  _mm512_maskz_loadu_ps(mask_of(n_valid - 16), from + 16)};
}

INLINE pair load_reals(const real *from, int64 n_valid) {
    return (pair){load16(from, n_valid), load16(from + 16, n_valid - 16)};
}

INLINE void store_floats(float *to, pair x, int64 n_valid) {
    _mm512_mask_storeu_ps(to, mask_of(n_valid), x.low);
    _mm512_mask_storeu_ps(to + 16, mask_of(n_valid - 16), x.high);
}

/* Round to bfloat16 and store; writes a whole cache line if all 32 exist. */
INLINE void store_reals(real *to, pair x, int64 n_valid) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low);
    if (n_valid >= 32)
        _mm512_storeu_si512(to, both);
    else
        _mm512_mask_storeu_epi16(to, (1u << n_valid) - 1, both);
}

/* `store_reals` past the caches, for data that is not read again soon. */
INLINE void stream_reals(real *to, pair x, int64 n_valid) {
    if (n_valid >= 32 && (uintptr_t)to % 64 == 0)
        _mm512_stream_si512((void *)to, (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low));
    else
        store_reals(to, x, n_valid);
}

INLINE pair broadcast(float x) { return (pair){_mm512_set1_ps(x), _mm512_set1_ps(x)}; }

INLINE float sum_of(pair x) { return _mm512_reduce_add_ps(_mm512_add_ps(x.low, x.high)); }

INLINE pair add_pair(pair a, pair b) {
    return (pair){_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}

INLINE pair mul_pair(pair a, pair b) {
    return (pair){_mm512_mul_ps(a.low, b.low), _mm512_mul_ps(a.high, b.high)};
}

/* 2^x with a relative error of 3e-6, for x > -infinity: 2^floor(x) times the minimax polynomial of
degree 4 for the fraction. */
INLINE __m512 power_of_two(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, 1 /* x - floor(x) */);
    __m512 result = _mm512_set1_ps(0.0135341678f);
    result = _mm512_fmadd_ps(result, r, _mm512_set1_ps(0.0520114601f));
    result = _mm512_fmadd_ps(result, r, _mm512_set1_ps(0.241442755f));
    result = _mm512_fmadd_ps(result, r, _mm512_set1_ps(0.693003833f));
    result = _mm512_fmadd_ps(result, r, _mm512_set1_ps(1.00000262f));
    return _mm512_scalef_ps(result, x); /* times 2^floor(x) */
}

/* An operand in memory. Its rows are lanes; with `by_depth` its columns are. */
typedef struct {
    const void *data;
    int64 stride, lanes, depth;
    int by_depth, is_float;
} matrix;

/* 32 lanes of the left operand, packed or as they are in memory. */
typedef struct {
    const real *data;
    int64 stride, next; /* reals from a lane to the next, and from a block of depth to the next */
} view;

static inline view packed_view(const real *packed) { return (view){packed, DEPTH, BLOCK}; }

#ifdef __AMX_BF16__

typedef struct {
    uint8_t palette, start, unused[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tiles;

/* Configure this thread's AMX tiles for `multiply`; returns the previous configuration. */
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

/* out (32 x 32, row stride `stride`) = left times right over `blocks` blocks of depth; with `adds`,
out += that product. */
INLINE void multiply(view left, const real *right, int64 blocks, float *out, int64 stride,
                     int adds) {
    float *low = out + 16 * stride;
    int64 bytes = stride * sizeof(float), left_bytes = left.stride * sizeof(real);
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
    for (int64 b = 0; b < blocks; b++, left.data += left.next, right += BLOCK) {
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

enum { ROWS = 8 }; /* rows whose sums are held in registers, two registers each */

INLINE void multiply(view left, const real *right, int64 blocks, float *out, int64 stride,
                     int adds) {
    for (int first = 0; first < LANES; first += ROWS, out += ROWS * stride) {
        __m512 sums[ROWS][2];
#pragma GCC unroll 16
        for (int i = 0; i < 2 * ROWS; i++)
            sums[i / 2][i % 2] =
                adds ? _mm512_loadu_ps(out + i / 2 * stride + i % 2 * 16) : _mm512_setzero_ps();
        const real *of_rows = left.data + first * left.stride, *of_columns = right;
        for (int64 b = 0; b < blocks; b++, of_rows += left.next, of_columns += BLOCK)
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

/* `multiply` for an `out` of which only `height` x `width` elements exist. */
static inline void multiply_into(view left, const real *right, int64 blocks, float *out,
                                 int64 stride, int64 height, int64 width, int adds) {
    if (height == LANES && width == LANES) {
        multiply(left, right, blocks, out, stride, adds);
        return;
    }
    float sums[LANES * LANES] __attribute__((aligned(64)));
    multiply(left, right, blocks, sums, LANES, 0);
    for (int64 i = 0; i < height; i++)
        for (int64 j = 0; j < width; j++) {
            float *at = out + i * stride + j;
            *at = sums[i * LANES + j] + (adds ? *at : 0);
        }
}

/* Transpose 16 x 16 elements of 32 bits. */
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

/* 32 elements of a row in memory as bfloat16, of which the first `n_valid` exist. */
INLINE __m512i load_row(const matrix *from, int64 row, int64 column, int64 n_valid) {
    __mmask32 mask = n_valid >= 32 ? ~0u : (1u << n_valid) - 1;
    int64 at = row * from->stride + column;
    if (from->is_float) {
        const float *data = (const float *)from->data + at;
        return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask >> 16, data + 16),
                                            _mm512_maskz_loadu_ps(mask, data));
    }
    return _mm512_maskz_loadu_epi16(mask, (const real *)from->data + at);
}

/* Pack 32 rows in memory, `blocks` blocks from `column` on; block b is written to `to + b * step`.
A left tile is 16 lanes x 16 pairs of depth; a right tile is 16 pairs of depth x 16 lanes. */
INLINE void pack(const matrix *from, int64 row, int64 column, int64 blocks, real *to, int64 step,
                 int is_right) {
    /* interleave elements i = 0 to 15 of two rows */
    const __m512i side_by_side =
        _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i plus_16 = _mm512_set1_epi16(16), zero = _mm512_setzero_si512();
    int64 rows = from->by_depth ? from->depth : from->lanes;
    int64 columns = from->by_depth ? from->lanes : from->depth;
    int64 size = from->is_float ? sizeof(float) : sizeof(real);
    for (int64 end = column + blocks * DEPTH; column < end; column += DEPTH, to += step) {
        __m512i packed[2][16];
        int64 n_valid = columns - column;
        int64 ahead = column + PREFETCH_BLOCKS * DEPTH, later = ahead < end ? row : row + LANES;
        if (ahead >= end) ahead -= blocks * DEPTH;
        prefetch(from->data, size, later * from->stride + ahead, from->stride, _MM_HINT_T0);
        if (from->by_depth) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                int64 r = row + 2 * i;
                __m512i one = r < rows ? load_row(from, r, column, n_valid) : zero;
                __m512i two = r + 1 < rows ? load_row(from, r + 1, column, n_valid) : zero;
                packed[0][i] = _mm512_permutex2var_epi16(one, side_by_side, two);
                packed[1][i] =
                    _mm512_permutex2var_epi16(one, _mm512_add_epi16(side_by_side, plus_16), two);
            }
        } else {
#pragma GCC unroll 16
            for (int i = 0; i < 32; i++)
                packed[i / 16][i % 16] =
                    row + i < rows ? load_row(from, row + i, column, n_valid) : zero;
        }
        for (int half = 0; half < 2; half++) {
            if (from->by_depth != is_right) transpose(packed[half]);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                _mm512_storeu_si512(to + half * TILE + 32 * i, packed[half][i]);
        }
    }
}

static void pack_left(const matrix *from, int64 row, int64 column, int64 blocks, real *to,
                      int64 step) {
    pack(from, row, column, blocks, to, step, 0);
}

static void pack_right(const matrix *from, int64 row, int64 column, int64 blocks, real *to,
                       int64 step) {
    pack(from, row, column, blocks, to, step, 1);
}

/* out (columns) = sum of n rows, in their order. */
static inline void sum_rows(const float *rows, float *restrict out, int64 n, int64 columns) {
    memset(out, 0, columns * sizeof(float));
    for (; n > 0; n--, rows += columns)
        for (int64 c = 0; c < columns; c++) out[c] += rows[c];
}

/* Memory for `blocks` packed blocks, 64-byte aligned, freed by the caller; NULL if there is none. */
static inline real *alloc_blocks(int64 blocks) {
    return aligned_alloc(64, blocks * BLOCK * sizeof(real));
}

#endif
