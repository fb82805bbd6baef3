/* Decoding: one call reads a token of each of some sequences and returns logits.

Rows are tokens of the call, C d_model, H heads, G key heads, D = C / H.

The logits of a row depend on its own sequence only, to the last bit: every sum of a product runs over
k in order, one fused multiply-add after another, in every tile, or is a sum of integers; every other
sum is of one row. So the number of rows, of threads, and who computes what do not matter. */

#include "decode.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif
#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNROLL _Pragma("GCC unroll 16")

#ifndef LANES /* floats of a vector register; the tests try others than this machine's */
#if defined __AVX512F__
#define LANES 16
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#endif
#if defined __AVX512F__ || defined __aarch64__
enum { WIDE_ROWS = 6 }; /* most rows of a tile with all four vectors of outputs: 32 registers */
#else
enum { WIDE_ROWS = 2 };
#endif
enum {
    VECTORS = 4,
    OUTS = VECTORS * LANES, /* outputs of a block */
    TILE_ROWS = 6,          /* most rows of a tile */
    PANEL = 256,            /* depth of weights that stay in the L1 cache while rows pass */
    LARGEST_WEIGHT = 127,   /* of int8 weights; they are multiplied by inputs of 16 bits: */
    LARGEST_INPUT = 32767,  /* PANEL products sum to less than 2^31 */
    AHEAD = 2048,           /* bytes before they are needed that int8 weights are asked for */
    ALIGNMENT = 64,         /* bytes of a line of the cache */
};

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words_anywhere __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int16_t shorts_anywhere __attribute__((vector_size(4 * LANES), aligned(4)));

static int64 round_up(int64 n, int64 to) { return (n + to - 1) / to * to; }
static int64 lesser(int64 a, int64 b) { return a < b ? a : b; }
static int64 greater(int64 a, int64 b) { return a > b ? a : b; }

/* --- weights -----------------------------------------------------------------------------------

A matrix is packed in blocks of OUTS outputs; a block holds, for each k, the weights of its outputs:
  fp32  OUTS floats
  bf16  words of 32 bits, of which word i of 0 to 2 LANES - 1 has output i % LANES + 2 LANES (i / LANES)
        in its lower half and the output LANES after it in its upper half
so that shifts make floats of them. Or it holds, for each pair of k, an odd depth padded with zero,
  int8  2 LANES words, whose halves belong to the k of the pair; of a half of word i, the lower byte has
        output i % LANES + 2 LANES (i / LANES), the upper byte the output LANES after it
so that shifts of halves make pairs of 16-bit integers. The last block is padded with zeros. */

static const int BYTES[] = {[FP32] = 4, [BF16] = 2, [INT8] = 1};

int64 decoder_bytes(void) { return sizeof(decoder); }
int64 outs_per_block(void) { return OUTS; }
static int64 block_bytes(int64 depth, int64 format) {
    return OUTS * (format == INT8 ? round_up(depth, 2) : depth) * BYTES[format];
}
int64 packed_bytes(int64 outs, int64 depth, int64 format) {
    return round_up(outs, OUTS) / OUTS * block_bytes(depth, format);
}

static uint32_t upper_half(float value) { /* rounded to bfloat16: nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

/* Where output o is among those of one k, with FP32 or BF16. */
static inline int64 place(int64 format, int64 o) {
    return format == FP32 ? o : 2 * (o / LANES / 2 * LANES + o % LANES) + o / LANES % 2;
}

static inline void put(int64 format, void *to, int64 at, float value) {
    if (format == FP32)
        ((float *)to)[at] = value;
    else
        ((uint16_t *)to)[at] = (uint16_t)upper_half(value);
}

static void pack_block(const float *w, int64 outs, int64 depth, int64 format, char *packed,
                       float *scales) {
    float inverse[OUTS];
    if (format == INT8)
        for (int64 o = 0; o < OUTS; o++) {
            float largest = 0;
            for (int64 k = 0; o < outs && k < depth; k++)
                largest = fmaxf(largest, fabsf(w[o * depth + k]));
            scales[o] = largest / LARGEST_WEIGHT;
            inverse[o] = largest > 0 ? LARGEST_WEIGHT / largest : 0;
        }
    int64 end = block_bytes(depth, format) / (OUTS * BYTES[format]); /* of k, with padding */
    for (int64 k = 0; k < end; k++)
        for (int64 o = 0; o < OUTS; o++) {
            float value = o < outs && k < depth ? w[o * depth + k] : 0;
            int64 half = place(BF16, o); /* its lower or upper byte */
            if (format == INT8)
                packed[k / 2 * 2 * OUTS + half / 2 * 4 + k % 2 * 2 + half % 2] =
                    (char)(int8_t)rintf(value * inverse[o]);
            else
                put(format, packed, k * OUTS + place(format, o), value);
        }
}

/* w (outs, depth) to the layout above; `scales` has room for whole blocks. */
void pack_matrix(const float *w, int64 outs, int64 depth, int64 format, void *packed, float *scales,
                int threads) {
    int64 blocks = round_up(outs, OUTS) / OUTS, bytes = block_bytes(depth, format);
#pragma omp parallel for num_threads(threads)
    for (int64 b = 0; b < blocks; b++)
        pack_block(w + b * OUTS * depth, lesser(OUTS, outs - b * OUTS), depth, format,
                   (char *)packed + b * bytes, scales ? scales + b * OUTS : NULL);
}

/* --- products ---------------------------------------------------------------------------------- */

/* Vector v of the weights at k, as floats. `stride`: weights from one k to the next. */
INLINE vec weight(const int format, const void *block, int64 stride, int64 k, const int v) {
    if (format == FP32) return *(const vec_anywhere *)((const float *)block + k * stride + v * LANES);
    const uint16_t *at = (const uint16_t *)block + k * stride + v / 2 * 2 * LANES;
    words pair = *(const words_anywhere *)at;
    return (vec)(v % 2 ? pair & 0xffff0000u : pair << 16);
}

/* What products of later data bring into the L2 cache while they compute. */
typedef struct {
    const char *at, *end;
} lines_ahead;

/* sums[r][o] += sum over k of x[r][k] * weight[k][o], in the order of k, for some rows and for the
outputs of vectors `first` to `first + count - 1`. */
INLINE void tile(const int format, const int rows, const int first, const int count,
                 const void *restrict block, int64 stride, const float *restrict x, int64 x_stride,
                 int64 depth, float *restrict sums, int64 sums_stride, lines_ahead ahead) {
    vec total[TILE_ROWS][VECTORS]; /* of constant size, so that it is in registers */
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < count; v++)
            total[r][v] = *(const vec_anywhere *)(sums + r * sums_stride + (first + v) * LANES);
#define AT(k)                                                                                     \
    {                                                                                             \
        vec w[VECTORS];                                                                           \
        UNROLL for (int v = 0; v < count; v++) w[v] = weight(format, block, stride, k, first + v); \
        UNROLL for (int r = 0; r < rows; r++)                                                     \
            UNROLL for (int v = 0; v < count; v++) total[r][v] += w[v] * x[r * x_stride + k];     \
    }
    int64 k = 0;
    for (; k + 2 <= depth && ahead.at < ahead.end; k += 2, ahead.at += ALIGNMENT) {
        __builtin_prefetch(ahead.at, 0, 2);
        AT(k)
        AT(k + 1)
    }
    for (; k < depth; k++) AT(k)
#undef AT
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < count; v++)
            *(vec_anywhere *)(sums + r * sums_stride + (first + v) * LANES) = total[r][v];
}

/* `tile` with a number of rows, up to TILE_ROWS, that is not known when this is compiled. */
INLINE void some_rows(const int format, int64 rows, const int first, const int count,
                      const void *block, int64 stride, const float *x, int64 x_stride, int64 depth,
                      float *sums, int64 sums_stride, lines_ahead ahead) {
#define ROWS(n)                                                                                 \
    case n:                                                                                     \
        if (n <= WIDE_ROWS || count <= 2)                                                       \
            tile(format, n, first, count, block, stride, x, x_stride, depth, sums, sums_stride, \
                 ahead);                                                                        \
        break;
    switch (rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
#undef ROWS
}

static const lines_ahead NOTHING_AHEAD = {0, 0};

/* All four vectors of outputs, or two and two where registers are few. */
INLINE void whole_block(const int format, int64 rows, const void *block, const float *x,
                        int64 x_stride, int64 depth, float *sums, int64 sums_stride) {
    if (rows <= WIDE_ROWS) {
        some_rows(format, rows, 0, VECTORS, block, OUTS, x, x_stride, depth, sums, sums_stride,
                  NOTHING_AHEAD);
        return;
    }
    some_rows(format, rows, 0, 2, block, OUTS, x, x_stride, depth, sums, sums_stride,
              NOTHING_AHEAD);
    some_rows(format, rows, 2, 2, block, OUTS, x, x_stride, depth, sums, sums_stride,
              NOTHING_AHEAD);
}

static void whole_block_fp32(int64 rows, const void *block, const float *x, int64 x_stride,
                             int64 depth, float *sums) {
    whole_block(FP32, rows, block, x, x_stride, depth, sums, OUTS);
}

static void whole_block_bf16(int64 rows, const void *block, const float *x, int64 x_stride,
                             int64 depth, float *sums) {
    whole_block(BF16, rows, block, x, x_stride, depth, sums, OUTS);
}

/* Weights of a block as floats, in parts of PART vectors that a tile reads: all four, or two halves
one after the other, so that a half fills all sets of the L1 cache. */
enum { PART = WIDE_ROWS == TILE_ROWS ? VECTORS : 2 };

INLINE void widen_as(const int format, const void *block, int64 depth, float *panel) {
    for (int64 k = 0; k < depth; k++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            *(vec_anywhere *)(panel + (v / PART * depth + k) * PART * LANES + v % PART * LANES) =
                weight(format, block, OUTS, k, v);
}

static void widen(int64 format, const void *block, int64 depth, float *panel) {
    if (format == FP32)
        widen_as(FP32, block, depth, panel);
    else
        widen_as(BF16, block, depth, panel);
}

/* Some rows and a part of what `widen` made. */
static void widened_part(int64 rows, const float *part, const float *x, int64 x_stride,
                         int64 depth, float *sums, lines_ahead ahead) {
    some_rows(FP32, rows, 0, PART, part, PART * LANES, x, x_stride, depth, sums, OUTS, ahead);
}

/* --- products with int8 weights -----------------------------------------------------------------

They are sums of integers: a row of inputs becomes 16-bit integers, with a scale for each PANEL of them,
which rounds them to 1 / 65,534 of the panel's largest. */

typedef struct {
    int16_t *values; /* (rows, stride) */
    float *scales;   /* (rows, panels) */
    int64 stride, panels;
} inputs;

static inputs as_integers(const float *x, int64 x_stride, int64 rows, int64 depth, int16_t *values,
                          float *scales) {
    /* as in `decode`, rows are apart by no power of two */
    inputs to = {values, scales, round_up(depth, 2) + ALIGNMENT / 2, (depth + PANEL - 1) / PANEL};
    for (int64 r = 0; r < rows; r++)
        for (int64 p = 0; p < to.panels; p++) {
            const float *restrict from = x + r * x_stride + p * PANEL;
            int16_t *restrict out = values + r * to.stride + p * PANEL;
            int64 n = lesser(PANEL, depth - p * PANEL);
            float largest = 0, nothing = 0; /* nothing: NaN if a value is NaN or infinite */
#pragma omp simd reduction(max : largest) reduction(+ : nothing)
            for (int64 k = 0; k < n; k++) {
                float size = fabsf(from[k]);
                largest = size > largest ? size : largest;
                nothing += size - size;
            }
            float inverse = largest > 0 && nothing == 0 ? LARGEST_INPUT / largest : 0;
            if (inverse == 0)
                memset(out, 0, (size_t)n * sizeof *out);
            else
#pragma omp simd
                for (int64 k = 0; k < n; k++) out[k] = (int16_t)rintf(from[k] * inverse);
            if (n % 2) out[n] = 0;
            scales[r * to.panels + p] = largest / LARGEST_INPUT + nothing;
        }
    return to;
}

/* In each 32-bit lane, the sum of the products of both pairs of 16-bit integers. */
INLINE ints multiply_pairs(words a, words b) {
#if defined __AVX512BW__ && LANES == 16
    return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined __AVX2__ && LANES == 8
    return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined __SSE2__ && LANES == 4
    return (ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return ((ints)(a << 16) >> 16) * ((ints)(b << 16) >> 16) + ((ints)a >> 16) * ((ints)b >> 16);
#endif
}

/* Vector v of the weights of a pair of k, as 16-bit integers. */
INLINE words weight_pairs(const void *block, int64 pair, const int v) {
    shorts both = *(const shorts_anywhere *)((const uint32_t *)block + (2 * pair + v / 2) * LANES);
    return (words)((v % 2 ? both : both << 8) >> 8);
}

/* sums[r][o] += scale[r] * sum over k of x[r][k] * weight[k][o], for a panel or less, some rows, and
the outputs of vectors `first` to `first + count - 1`. */
INLINE void integer_tile(const int is_widened, const int rows, const int first, const int count,
                         const void *restrict block, inputs x, int64 pairs, float *restrict sums,
                         lines_ahead ahead) {
    ints total[TILE_ROWS][VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < count; v++) total[r][v] = (ints){0};
#define AT(pair)                                                                                    \
    {                                                                                               \
        words w[VECTORS];                                                                           \
        UNROLL for (int v = 0; v < count; v++) w[v] =                                               \
            is_widened ? *(const words_anywhere *)((const uint32_t *)block + (count * pair + v) * LANES) \
                       : weight_pairs(block, pair, first + v);                                      \
        UNROLL for (int r = 0; r < rows; r++) {                                                     \
            uint32_t both;                                                                          \
            memcpy(&both, x.values + r * x.stride + 2 * (pair), sizeof both);                       \
            UNROLL for (int v = 0; v < count; v++) total[r][v] +=                                   \
                multiply_pairs(w[v], both - (words){0});                                            \
        }                                                                                           \
    }
    int64 pair = 0;
    for (; pair < pairs && ahead.at < ahead.end; pair++, ahead.at += ALIGNMENT) {
        __builtin_prefetch(ahead.at, 0, 2);
        AT(pair)
    }
    for (; pair < pairs; pair++) AT(pair)
#undef AT
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < count; v++) {
            vec_anywhere *at = (vec_anywhere *)(sums + r * OUTS + (first + v) * LANES);
            *at += __builtin_convertvector(total[r][v], vec) * x.scales[r * x.panels];
        }
}

INLINE void some_integer_rows(const int is_widened, int64 rows, const int first, const int count,
                              const void *block, inputs x, int64 pairs, float *sums,
                              lines_ahead ahead) {
#define ROWS(n)                                                                           \
    case n:                                                                               \
        if (n <= WIDE_ROWS || count <= 2)                                                 \
            integer_tile(is_widened, n, first, count, block, x, pairs, sums, ahead);      \
        break;
    switch (rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
#undef ROWS
}

/* A panel or less of a block, as it is packed. */
static void packed_panel(int64 rows, const char *block, inputs x, int64 pairs, float *sums) {
    /* the processor itself does not bring these short blocks in time */
    lines_ahead ahead = {block + AHEAD, block + AHEAD + pairs * 2 * OUTS};
    if (rows <= WIDE_ROWS) {
        some_integer_rows(0, rows, 0, VECTORS, block, x, pairs, sums, ahead);
        return;
    }
    some_integer_rows(0, rows, 0, 2, block, x, pairs, sums, ahead);
    some_integer_rows(0, rows, 2, 2, block, x, pairs, sums, NOTHING_AHEAD);
}

/* Some rows and a part of a panel that is widened as `widen` does it. */
static void widened_pairs(int64 rows, const uint32_t *part, inputs x, int64 pairs, float *sums,
                          lines_ahead ahead) {
    some_integer_rows(1, rows, 0, PART, part, x, pairs, sums, ahead);
}

static void widen_pairs(const void *block, int64 pairs, uint32_t *panel) {
    for (int64 pair = 0; pair < pairs; pair++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            *(words_anywhere *)(panel + (v / PART * pairs + pair) * PART * LANES + v % PART * LANES) =
                weight_pairs(block, pair, v);
}

/* --- a block of outputs ------------------------------------------------------------------------- */

/* What the rows of a product read: floats, or with int8 weights also integers. */
typedef struct {
    const float *x;
    int64 stride;
    inputs integers;
} operand;

static operand rows_from(operand all, int64 row) {
    all.x += row * all.stride;
    all.integers.values += row * all.integers.stride;
    all.integers.scales += row * all.integers.panels;
    return all;
}

/* Rows and a part of a panel from k on, whose weights are widened. */
static void panel_part(int64 format, int64 rows, const float *panel, int64 v, operand by, int64 k,
                       int64 depth, float *sums, lines_ahead ahead) {
    if (format == INT8) {
        int64 pairs = (depth + 1) / 2;
        by.integers.values += k;
        by.integers.scales += k / PANEL;
        widened_pairs(rows, (const uint32_t *)panel + v * pairs * LANES, by.integers, pairs,
                      sums + v * LANES, ahead);
    } else
        widened_part(rows, panel + v * depth * LANES, by.x + k, by.stride, depth, sums + v * LANES,
                     ahead);
}

/* sums[r][o] = sum over k of x[r][k] * weight[k][o] for all rows and the outputs of one block.
`following` is the block that this thread will probably take next, or NULL. */
static void sum_block(int64 format, const char *block, const char *following, int64 depth, operand by,
                      int64 rows, float *panel, float *sums) {
    memset(sums, 0, (size_t)(rows * OUTS) * sizeof *sums);
    int64 tiles = round_up(rows, TILE_ROWS) / TILE_ROWS, row_bytes = OUTS * BYTES[format];
    if (tiles == 1 && format != INT8) {
        (format == FP32 ? whole_block_fp32 : whole_block_bf16)(rows, block, by.x, by.stride, depth,
                                                               sums);
        return;
    }
    for (int64 k = 0; k < depth; k += PANEL) {
        int64 part = lesser(PANEL, depth - k), rest = depth - k - part;
        const char *weights = block + k * row_bytes;
        if (tiles == 1) {
            inputs x = by.integers;
            x.values += k;
            x.scales += k / PANEL;
            packed_panel(rows, weights, x, (part + 1) / 2, sums);
            continue;
        }
        if (format == INT8)
            widen_pairs(weights, (part + 1) / 2, (uint32_t *)panel);
        else
            widen(format, weights, part, panel);
        /* the next panel comes near while this one is multiplied, some of it with each tile */
        const char *next = rest > 0 ? block + (k + part) * row_bytes : following;
        int64 bytes = next ? lesser(PANEL, rest > 0 ? rest : depth) * row_bytes : 0;
        if (!next) next = block;
        int64 share = round_up(bytes / (tiles * VECTORS / PART) + 1, ALIGNMENT), done = 0;
        for (int64 v = 0; v < VECTORS; v += PART)
            for (int64 t = 0; t < tiles; t++, done += share) {
                int64 r = t * rows / tiles, end = (t + 1) * rows / tiles;
                lines_ahead ahead = {next + lesser(done, bytes), next + lesser(done + share, bytes)};
                panel_part(format, end - r, panel, v, rows_from(by, r), k, part, sums + r * OUTS,
                           ahead);
            }
    }
}

/* --- threads that work on one call -------------------------------------------------------------- */

/* Where all threads of a call meet.  A thread waits for some microseconds before it sleeps: another
one is often late by less, and sleeping takes longer than that. */
typedef struct {
    _Alignas(ALIGNMENT) atomic_int arrived;
    _Alignas(ALIGNMENT) atomic_int round;
    atomic_int sleepers;
} meeting;

enum { SPINS = 2000 };

static inline void pause_briefly(void) {
#if defined __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

static void meet(meeting *m, int threads) {
    if (threads == 1) return;
    int round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) == threads - 1) {
        atomic_store(&m->arrived, 0);
        atomic_fetch_add(&m->round, 1);
        if (atomic_load(&m->sleepers))
            syscall(SYS_futex, &m->round, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        return;
    }
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&m->round, memory_order_acquire) != round) return;
        pause_briefly();
    }
    atomic_fetch_add(&m->sleepers, 1);
    while (atomic_load(&m->round) == round)
        syscall(SYS_futex, &m->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
    atomic_fetch_sub(&m->sleepers, 1);
}

/* What all threads share during a call.  Rows of buffers are padded to whole blocks. */
typedef struct {
    const decoder *d;
    const int64 *tokens, *slots, *positions;
    int64 rows;
    int64 qkv_width, width, ff_width; /* of rows */
    int64 stride; /* of rows of C that products read */
    float *qkv, *heads, *update, *ff, *first; /* first: values of the first layer */
    int threads;
    atomic_llong *tasks; /* a counter for each phase */
    meeting *meeting;
} call;

/* What a thread has for itself: the residual stream too, which every thread computes. */
typedef struct {
    float *x, *x0, *normed; /* (rows, C); `normed` at the call's stride */
    float *sums, *panel, *scores;
    int16_t *integers; /* of inputs, with int8 weights */
    float *scales;
    int64 phase;
} worker;

/* The next task of this phase: threads take tasks as they become free. */
static inline int64 take(const call *c, const worker *w) {
    return atomic_fetch_add_explicit(&c->tasks[w->phase], 1, memory_order_relaxed);
}

static inline void end_phase(const call *c, worker *w) {
    w->phase++;
    meet(c->meeting, c->threads);
}

/* --- rows --------------------------------------------------------------------------------------- */

static inline float sum_of(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* Sum of (x - centre), or of its square. */
static float sum_row(const float *x, float centre, int squares, int64 width) {
    vec sums = {0};
    int64 c = 0;
    for (; c + LANES <= width; c += LANES) {
        vec part = *(const vec_anywhere *)(x + c) - centre;
        sums += squares ? part * part : part;
    }
    float sum = sum_of(sums);
    for (; c < width; c++) {
        float part = x[c] - centre;
        sum += squares ? part * part : part;
    }
    return sum;
}

/* LayerNorm or RMSNorm of one row; `out` may be `x`. */
static void norm_one(const decoder *d, norm_parameters by, const float *x, float *out, int64 width) {
    float centre = d->rms ? 0 : sum_row(x, 0, 0, width) / width;
    float factor = 1 / sqrtf(sum_row(x, centre, 1, width) / width + d->eps);
    for (int64 c = 0; c < width; c++) {
        float y = (x[c] - centre) * factor;
        if (by.gain) y *= by.gain[c];
        if (by.shift) y += by.shift[c];
        out[c] = y;
    }
}

static void norm_rows(const call *c, norm_parameters by, const float *x, float *out, int64 rows) {
    int64 width = c->d->d_model;
    for (int64 r = 0; r < rows; r++) norm_one(c->d, by, x + r * width, out + r * c->stride, width);
}

static void add_to(float *restrict x, const float *restrict update, int64 width) {
    for (int64 c = 0; c < width; c++) x[c] += update[c];
}

/* Add what a layer computed to the residual stream. */
static void add_update(const call *c, worker *w, norm_parameters post_norm) {
    int64 width = c->d->d_model;
    for (int64 r = 0; r < c->rows; r++) {
        const float *update = c->update + r * c->width;
        if (c->d->post_normed) {
            norm_one(c->d, post_norm, update, w->scores, width);
            update = w->scores;
        }
        add_to(w->x + r * width, update, width);
    }
}

/* tinygpt/components/models/parts/embeddings.py: n-grams of tokens, found by their hash. */
static void add_ngrams(const decoder *d, const int64 *history, int64 position, float *x) {
    uint64_t hash = (uint64_t)history[position] + 1; /* 0 is no token */
    for (int64 t = 0; t < d->n_tables; t++) {
        int64 before = position - t - 1;
        hash = hash * 1000003u + (before < 0 ? 0 : (uint64_t)history[before] + 1);
        int64 row = (int64)hash % d->table_rows; /* of the sign of the hash */
        row += row < 0 ? d->table_rows : 0;
        add_to(x, d->tables[t] + row * d->d_model, d->d_model);
    }
}

static void embed(const call *c, worker *w) {
    const decoder *d = c->d;
    int64 width = d->d_model;
    for (int64 r = 0; r < c->rows; r++) {
        float *x = w->x + r * width;
        memcpy(x, d->token_embedding + c->tokens[r] * width, (size_t)width * sizeof *x);
        if (d->position_embedding) add_to(x, d->position_embedding + c->positions[r] * width, width);
        if (d->n_tables)
            add_ngrams(d, d->history + c->slots[r] * d->capacity, c->positions[r], x);
        if (d->embedding_normed) norm_one(d, d->embedding_norm, x, x, width);
    }
    if (w->x0) memcpy(w->x0, w->x, (size_t)(c->rows * width) * sizeof *w->x);
}

/* --- products with what follows them ------------------------------------------------------------ */

/* erf within 1.5e-7: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 7.1.26. */
static inline float error_function(float x) {
    float size = fabsf(x), t = 1 / (1 + 0.3275911f * size);
    float series = 1.061405429f;
    series = series * t - 1.453152027f;
    series = series * t + 1.421413741f;
    series = series * t - 0.284496736f;
    series = series * t + 0.254829592f;
    return copysignf(1 - series * t * exponential(-size * size), x);
}

enum { PLAIN = -1 }; /* no activation; otherwise one of decode.h */

/* In place: sums of a block become its outputs; returns how many.  SwiGLU has OUTS / 2 gates and the
inputs that they gate in each block. */
static int64 activate(int64 activation, float *restrict y) {
    if (activation == GELU) {
#pragma omp simd
        for (int64 o = 0; o < OUTS; o++) {
            float slope;
            gelu_of(y[o], &y[o], &slope);
        }
    } else if (activation == GELU_ERF) {
#pragma omp simd
        for (int64 o = 0; o < OUTS; o++) y[o] = 0.5f * y[o] * (1 + error_function(y[o] * 0.70710678f));
    } else if (activation == RELU2) {
        for (int64 o = 0; o < OUTS; o++) y[o] = y[o] > 0 ? y[o] * y[o] : 0;
    } else if (activation == SWIGLU) {
#pragma omp simd
        for (int64 o = 0; o < OUTS / 2; o++)
            y[o] = y[o] / (1 + exponential(-y[o])) * y[o + OUTS / 2];
        return OUTS / 2;
    }
    return OUTS;
}

/* The block that a thread takes after `block` if all threads are equally fast; NULL after the last. */
static const char *probably_next(const call *c, const char *weights, int64 block, int64 blocks,
                                 int64 bytes) {
    return block + c->threads < blocks ? weights + c->threads * bytes : NULL;
}

/* Rows that a product reads. With int8 weights each thread rounds all of them, which takes less time
than to wait for others. */
static operand operand_of(const call *c, worker *w, const float *x, int64 stride, int64 rows,
                          int64 depth) {
    operand by = {.x = x, .stride = stride};
    if (c->d->format == INT8)
        by.integers = as_integers(x, stride, rows, depth, w->integers, w->scales);
    return by;
}

/* out[r] = activation(m x[r]), padded to whole blocks. A task is a block of outputs, and where there
are many threads a part of the rows. */
static void product(const call *c, worker *w, const matrix *m, const float *x, int64 x_stride,
                    int64 activation, float *out, int64 out_stride) {
    int64 format = c->d->format, rows = c->rows;
    int64 blocks = round_up(m->outs, OUTS) / OUTS, bytes = block_bytes(m->depth, format);
    operand by = operand_of(c, w, x, x_stride, rows, m->depth);
    int64 parts = lesser(round_up(rows, TILE_ROWS) / TILE_ROWS,
                         greater(1, round_up(4 * c->threads, blocks) / blocks));
    for (int64 task = take(c, w); task < blocks * parts; task = take(c, w)) {
        int64 block = task / parts, part = task % parts, first = part * rows / parts;
        int64 n = (part + 1) * rows / parts - first;
        const char *weights = (const char *)m->weights + block * bytes;
        sum_block(format, weights, probably_next(c, weights, block, blocks, bytes), m->depth,
                  rows_from(by, first), n, w->panel, w->sums);
        for (int64 r = 0; r < n; r++) {
            float *y = w->sums + r * OUTS;
            if (m->scales)
                for (int64 o = 0; o < OUTS; o++) y[o] *= m->scales[block * OUTS + o];
            if (m->bias)
                for (int64 o = 0; o < OUTS; o++) y[o] += m->bias[block * OUTS + o];
            int64 width = activate(activation, y);
            memcpy(out + (first + r) * out_stride + block * width, y, (size_t)width * sizeof *y);
        }
    }
    end_phase(c, w);
}

/* Logits of `n` rows of x, at the call's stride. */
static void head(const call *c, worker *w, const float *x, int64 n, float *logits) {
    const decoder *d = c->d;
    const matrix *m = &d->head;
    int64 blocks = round_up(m->outs, OUTS) / OUTS, bytes = block_bytes(m->depth, d->format);
    operand by = operand_of(c, w, x, c->stride, n, m->depth);
    for (int64 block = take(c, w); block < blocks; block = take(c, w)) {
        const char *weights = (const char *)m->weights + block * bytes;
        sum_block(d->format, weights, probably_next(c, weights, block, blocks, bytes), m->depth, by, n,
                  w->panel, w->sums);
        int64 first = block * OUTS, width = lesser(OUTS, m->outs - first);
        for (int64 r = 0; r < n; r++)
            for (int64 o = 0; o < width; o++) {
                float y = w->sums[r * OUTS + o] * (m->scales ? m->scales[first + o] : 1);
                if (d->softcap > 0) /* tanh(z) = 1 - 2 / (1 + e^2z) */
                    y = d->softcap * (1 - 2 / (1 + exponential(2 * y / d->softcap)));
                logits[r * m->outs + first + o] = y;
            }
    }
}

/* --- attention ----------------------------------------------------------------------------------

The cache holds keys and values of each layer, slot and head of them: keys as a packed matrix with
positions as outputs and D as depth, values as rows of whole vectors, which are packed as the weights
of one k. So scores, and sums of values, are products like the others. Both are in fp32 with fp32
weights, and in bf16 with others. */

static int64 cache_format(const decoder *d) { return d->format == FP32 ? FP32 : BF16; }
static int64 key_width(const decoder *d) { return round_up(d->capacity, OUTS) * d->d_head; }
static int64 value_width(const decoder *d) {
    return round_up(d->d_head, cache_format(d) == FP32 ? LANES : 2 * LANES);
}
/* The key or value with this number. */
static char *at_cached(const decoder *d, void *cache, int64 number) {
    return (char *)cache + number * BYTES[cache_format(d)];
}

void cache_sizes(const decoder *d, int64 *keys, int64 *values) {
    int64 heads = d->n_layer * d->n_slots * d->n_kv_head, bytes = BYTES[cache_format(d)];
    *keys = heads * key_width(d) * bytes;
    *values = heads * d->capacity * value_width(d) * bytes;
}

static int64 cached_head(const decoder *d, int64 layer, int64 slot, int64 head) {
    return (layer * d->n_slots + slot) * d->n_kv_head + head;
}

/* By halves: component i turns with i + D / 2. */
static void rotate(const decoder *d, float *x, int64 position) {
    int64 half = d->d_head / 2;
    const float *cosine = d->cosines + position * half, *sine = d->sines + position * half;
    for (int64 i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Put the key and value of one row and one head into the cache. */
static void remember(const call *c, const worker *w, int64 layer, int64 row, int64 head) {
    const decoder *d = c->d;
    const decoder_layer *l = &d->layers[layer];
    int64 width = d->d_head, kv_width = d->n_kv_head * width, position = c->positions[row];
    int64 at = cached_head(d, layer, c->slots[row], head);
    float *key = c->qkv + row * c->qkv_width + d->d_model + head * width, *value = key + kv_width;
    float *first = c->first ? c->first + row * kv_width + head * width : NULL;
    if (first && layer == 0) memcpy(first, value, (size_t)width * sizeof *value);
    if (l->value_mix)
        for (int64 i = 0; i < width; i++)
            value[i] = l->value_mix[0] * value[i] + l->value_mix[1] * first[i];
    if (l->value_embedding) {
        const float *added = l->value_embedding + c->tokens[row] * kv_width + head * width;
        const float *x = w->normed + row * c->stride, *by = l->value_gate + head * d->gate_width;
        float gate = 0;
        for (int64 i = 0; i < d->gate_width; i++) gate += x[i] * by[i];
        gate = 2 / (1 + exponential(-gate));
        for (int64 i = 0; i < width; i++) value[i] += gate * added[i];
    }
    if (d->qk_normed) norm_one(d, l->k_norm, key, key, width);
    if (d->cosines) rotate(d, key, position);
    int64 format = cache_format(d), column = place(format, position % OUTS);
    char *keys = at_cached(d, d->keys, at * key_width(d) + position / OUTS * OUTS * width);
    char *values = at_cached(d, d->values, (at * d->capacity + position) * value_width(d));
    for (int64 i = 0; i < width; i++) put(format, keys, i * OUTS + column, key[i]);
    for (int64 i = 0; i < width; i++) put(format, values, place(format, i), value[i]);
}

/* Scores of positions `first` to `end - 1` become weights that sum to 1; others, up to whole vectors,
become 0. */
static void softmax(float *scores, int64 first, int64 end, float scale) {
    int64 begin = first / LANES * LANES, stop = round_up(end, LANES);
    float largest = scores[first];
#pragma omp simd reduction(max : largest)
    for (int64 i = first; i < end; i++) largest = scores[i] > largest ? scores[i] : largest;
    for (int64 i = begin; i < first; i++) scores[i] = 0;
#pragma omp simd
    for (int64 i = first; i < end; i++) scores[i] = exponential((scores[i] - largest) * scale);
    for (int64 i = end; i < stop; i++) scores[i] = 0;
    float factor = 1 / sum_row(scores + begin, 0, 0, stop - begin);
    for (int64 i = first; i < end; i++) scores[i] *= factor;
}

/* Some query heads of one row, up to TILE_ROWS, that share one head of keys and values. */
INLINE void attend_as(const int format, const call *c, worker *w, int64 layer, int64 row, int64 head,
                      int64 query, int64 queries) {
    const decoder *d = c->d;
    int64 width = d->d_head, padded = value_width(d), at = cached_head(d, layer, c->slots[row], head);
    int64 end = c->positions[row] + 1, first = d->window ? greater(0, end - d->window) : 0;
    int64 stride = round_up(d->capacity, OUTS), begin = first / OUTS * OUTS;
    float *q = c->qkv + row * c->qkv_width + query * width;
    for (int64 i = 0; i < queries; i++) {
        if (d->qk_normed) norm_one(d, d->layers[layer].q_norm, q + i * width, q + i * width, width);
        if (d->cosines) rotate(d, q + i * width, c->positions[row]);
        memset(w->scores + i * stride + begin, 0, (size_t)(round_up(end, OUTS) - begin) * sizeof *q);
    }
    const char *keys = at_cached(d, d->keys, at * key_width(d));
    const char *values = at_cached(d, d->values, (at * d->capacity + first) * padded);
    for (int64 p = begin; p < end; p += OUTS)
        whole_block(format, queries, keys + p * width * BYTES[format], q, width, width, w->scores + p,
                    stride);
    for (int64 i = 0; i < queries; i++)
        softmax(w->scores + i * stride, first, end, 1 / sqrtf((float)width));
    memset(w->sums, 0, (size_t)(queries * padded) * sizeof *w->sums);
    for (int64 o = 0, n = 0; o < padded; o += n) {
        n = queries <= WIDE_ROWS && o + OUTS <= padded ? OUTS
            : o + 2 * LANES <= padded                  ? 2 * LANES
                                                       : LANES;
#define OUTPUTS(count)                                                                           \
    if (n == count * LANES)                                                                      \
        some_rows(format, queries, 0, count, values + o * BYTES[format], padded,                 \
                  w->scores + first, stride, end - first, w->sums + o, padded, NOTHING_AHEAD);
        OUTPUTS(4) OUTPUTS(2) OUTPUTS(1)
#undef OUTPUTS
    }
    for (int64 i = 0; i < queries; i++)
        memcpy(c->heads + row * c->stride + (query + i) * width, w->sums + i * padded,
               (size_t)width * sizeof *q);
}

static void attend_fp32(const call *c, worker *w, int64 layer, int64 row, int64 head, int64 query,
                        int64 queries) {
    attend_as(FP32, c, w, layer, row, head, query, queries);
}

static void attend_bf16(const call *c, worker *w, int64 layer, int64 row, int64 head, int64 query,
                        int64 queries) {
    attend_as(BF16, c, w, layer, row, head, query, queries);
}

/* Rows of one slot follow each other; their keys must all be there before one of them attends. */
static void attention(const call *c, worker *w, int64 layer) {
    const decoder *d = c->d;
    int64 tasks = c->rows * d->n_kv_head, group = d->n_head / d->n_kv_head;
    int together = 1;
    for (int64 r = 1; r < c->rows; r++) together &= c->slots[r] != c->slots[r - 1];
    if (!together) {
        for (int64 task = take(c, w); task < tasks; task = take(c, w))
            remember(c, w, layer, task / d->n_kv_head, task % d->n_kv_head);
        end_phase(c, w);
    }
    for (int64 task = take(c, w); task < tasks; task = take(c, w)) {
        int64 row = task / d->n_kv_head, head = task % d->n_kv_head;
        if (together) remember(c, w, layer, row, head);
        for (int64 q = 0; q < group; q += TILE_ROWS)
            (cache_format(d) == FP32 ? attend_fp32 : attend_bf16)(
                c, w, layer, row, head, head * group + q, lesser(TILE_ROWS, group - q));
    }
    end_phase(c, w);
}

/* --- the model ---------------------------------------------------------------------------------- */

static void read_rows(const call *c, worker *w, const int64 *wanted, int64 n_wanted, float *logits) {
    const decoder *d = c->d;
    int64 width = d->d_model, size = c->rows * width;
    embed(c, w);
    for (int64 layer = 0; layer < d->n_layer; layer++) {
        const decoder_layer *l = &d->layers[layer];
        if (layer > 0) add_update(c, w, d->layers[layer - 1].mlp_post_norm);
        if (l->shortcut)
            for (int64 i = 0; i < size; i++)
                w->x[i] = l->shortcut[0] * w->x[i] + l->shortcut[1] * w->x0[i];
        norm_rows(c, l->attention_norm, w->x, w->normed, c->rows);
        product(c, w, &l->qkv, w->normed, c->stride, PLAIN, c->qkv, c->qkv_width);
        attention(c, w, layer);
        product(c, w, &l->out, c->heads, c->stride, PLAIN, c->update, c->width);
        add_update(c, w, l->attention_post_norm);
        norm_rows(c, l->mlp_norm, w->x, w->normed, c->rows);
        product(c, w, &l->up, w->normed, c->stride, d->feedforward, c->ff, c->ff_width);
        product(c, w, &l->down, c->ff, c->ff_width, PLAIN, c->update, c->width);
    }
    if (n_wanted == 0) return;
    add_update(c, w, d->layers[d->n_layer - 1].mlp_post_norm);
    for (int64 i = 0; i < n_wanted; i++)
        norm_one(d, d->norm, w->x + wanted[i] * width, w->normed + i * c->stride, width);
    head(c, w, w->normed, n_wanted, logits);
}

/* The next `floats` of memory, aligned. */
static float *part_of(char **memory, int64 floats) {
    float *part = (float *)*memory;
    *memory += round_up(floats * (int64)sizeof(float), ALIGNMENT);
    return part;
}

/* Read tokens (rows), each of a slot and at a position, and write logits (n_wanted, V) of the rows that
`wanted` lists.  Rows of one slot are adjacent, at consecutive positions. */
int decode(const decoder *d, const int64 *tokens, const int64 *slots, const int64 *positions,
           int64 rows, const int64 *wanted, int64 n_wanted, float *logits, int threads) {
    for (int64 r = 0; r < rows; r++) {
        if (tokens[r] < 0 || tokens[r] >= d->vocab_size) return OUT_OF_RANGE;
        if (slots[r] < 0 || slots[r] >= d->n_slots) return OUT_OF_RANGE;
        if (positions[r] < 0 || positions[r] >= d->capacity) return OUT_OF_RANGE;
    }
    call c = {.d = d, .tokens = tokens, .slots = slots, .positions = positions, .rows = rows};
    int64 kv_width = d->n_kv_head * d->d_head;
    c.qkv_width = round_up(d->d_model + 2 * kv_width, OUTS);
    c.width = round_up(d->d_model, OUTS);
    /* rows that products read are apart by no power of two, which would share sets of a cache */
    c.ff_width = round_up(d->d_ff, OUTS) + ALIGNMENT / 4;
    c.stride = round_up(d->d_model, ALIGNMENT / 4) + ALIGNMENT / 4;
    int64 phases = 6 * d->n_layer + 1;
    int64 shared = rows * (c.qkv_width + c.stride + c.width + c.ff_width + kv_width);
    int64 sums = greater(rows * OUTS, TILE_ROWS * value_width(d));
    int64 scores = greater(TILE_ROWS * round_up(d->capacity, OUTS), d->d_model);
    int64 deepest = greater(d->d_model, d->d_ff), integers = 0, scales = 0;
    if (d->format == INT8) {
        integers = rows * (round_up(deepest, 2) + ALIGNMENT / 2) / 2; /* in floats */
        scales = rows * (round_up(deepest, PANEL) / PANEL);
    }
    int64 own = rows * (2 * d->d_model + c.stride) + sums + scores + OUTS * PANEL + integers + scales;
    int64 bytes = (shared + threads * own) * (int64)sizeof(float) + phases * (int64)sizeof *c.tasks +
                  (int64)sizeof(meeting) + (8 + 9 * threads) * ALIGNMENT;
    char *allocated = malloc((size_t)bytes);
    if (!allocated) return NO_MEMORY;
    char *memory = (char *)round_up((int64)allocated, ALIGNMENT);
    c.meeting = (meeting *)memory;
    memset(memory, 0, sizeof(meeting));
    memory += sizeof(meeting);
    c.tasks = (atomic_llong *)part_of(&memory, phases * 2);
    memset((void *)c.tasks, 0, (size_t)phases * sizeof *c.tasks);
    c.qkv = part_of(&memory, rows * c.qkv_width);
    c.heads = part_of(&memory, rows * c.stride);
    c.update = part_of(&memory, rows * c.width);
    c.ff = part_of(&memory, rows * c.ff_width);
    c.first = d->n_layer > 1 && d->layers[1].value_mix ? part_of(&memory, rows * kv_width) : NULL;
    for (int64 r = 0; r < rows; r++) d->history[slots[r] * d->capacity + positions[r]] = tokens[r];
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp single
        c.threads = omp_get_num_threads(); /* may be fewer than asked for */
        char *part = memory + omp_get_thread_num() *
                                  (round_up(own * (int64)sizeof(float), ALIGNMENT) + 8 * ALIGNMENT);
        worker w = {.phase = 0};
        w.x = part_of(&part, rows * d->d_model);
        w.x0 = d->layers[0].shortcut ? part_of(&part, rows * d->d_model) : NULL;
        w.normed = part_of(&part, rows * c.stride);
        w.sums = part_of(&part, sums);
        w.scores = part_of(&part, scores);
        w.panel = part_of(&part, OUTS * PANEL);
        w.integers = integers ? (int16_t *)part_of(&part, integers) : NULL;
        w.scales = scales ? part_of(&part, scales) : NULL;
        read_rows(&c, &w, wanted, n_wanted, logits);
    }
    free(allocated);
    return 0;
}

/* Make one slot hold the first tokens of another one. */
void copy_slot(const decoder *d, int64 source, int64 target, int64 length) {
    int64 bytes = BYTES[cache_format(d)];
    size_t keys = (size_t)(round_up(length, OUTS) * d->d_head * bytes);
    size_t values = (size_t)(length * value_width(d) * bytes);
    for (int64 layer = 0; layer < d->n_layer; layer++)
        for (int64 head = 0; head < d->n_kv_head; head++) {
            int64 from = cached_head(d, layer, source, head), to = cached_head(d, layer, target, head);
            int64 k = key_width(d), v = d->capacity * value_width(d);
            memcpy(at_cached(d, d->keys, to * k), at_cached(d, d->keys, from * k), keys);
            memcpy(at_cached(d, d->values, to * v), at_cached(d, d->values, from * v), values);
        }
    memcpy(d->history + target * d->capacity, d->history + source * d->capacity,
           (size_t)length * sizeof *d->history);
}
