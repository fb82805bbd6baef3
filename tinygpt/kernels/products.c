/* Products of matrices of bfloat16, summed in float, and what follows while it is in the caches.

By AMX, or by the instructions of AVX-512 for bfloat16; without either there is nothing in here but
`multiplies`.  Weights are matrices (columns, depth) of float, rounded where they are packed. */

#define _GNU_SOURCE /* for syscall */
#include "blocks.h"

#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By what: 0 nothing, 1 AVX-512, 2 AMX, for which the system is asked. */
int multiplies(void) {
#if defined __AMX_BF16__
    enum { ASK = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM of arch_prctl(2) */
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0 ? 2 : 0;
#elif defined __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

#ifdef __AVX512BF16__

/* Bytes of what is right that a thread packs for itself at a time, as its L2 cache allows. AMX wants
what is left packed too, once for each of them, so there they are more. */
#ifdef __AMX_BF16__
enum { OWN = 5 << 18 };
#else
enum { OWN = 600 << 10 };
#endif

enum {
    SHARED = 5 << 18, /* bytes, up to which all threads pack together */
    PART = 1024,      /* as deep are sums of more than that, before others begin, */
    TALL = 64,        /* and as many blocks of rows, at least, share what is packed */
    PANEL = 1024,     /* as many rows does a gradient of weights take at a time, */
    GROUP = 1 << 19,  /* and as many bytes of their columns */
};

/* A product, and what is done with a block of it, and when all is done with rows; `out` and what else
has rows are (rows, columns). `kept` is for later. */
typedef struct job {
    void (*block)(const struct job *, count row, count column, count height, count width,
                  const float *sums);
    void (*rows)(const struct job *, count first, count end);
    count columns;
    real *out, *kept;
    const real *slope;
    const float *bias, *residual, *gain, *shift, *x;
    float *total, *mean, *rstd, *sums_of_rows, eps;
} job;

/* How a product is cut: a task is `tall` blocks of rows by `wide` blocks of columns, of which there are
so many groups and panels, and goes through its depth in parts. What is right is packed by all threads
for all tasks, or in each of them. */
typedef struct {
    int is_shared;
    count part, wide, panels, tall, groups;
} cut;

static inline count how_many(count all, count each) { return (all + each - 1) / each; }

static cut cut_of(count down, count across, count deep, int threads) {
    count bytes = BLOCK * sizeof(real), enough = 2 * threads;
    if (across * deep * bytes <= SHARED)
        return (cut){
            .is_shared = 1, .part = deep, .wide = across, .panels = 1, .tall = 1, .groups = down};
    count part = how_many(deep, how_many(deep, PART / DEPTH));
    count panels = how_many(across, least(across, OWN / (part * bytes)));
    count groups = least(how_many(enough, panels), down > TALL ? down / TALL : 1);
    /* as many for each thread, so that all end together */
    panels = how_many(how_many(panels * groups, enough) * enough, groups);
    count wide = how_many(across, panels), tall = how_many(down, groups);
    return (cut){.part = part,
                 .wide = wide,
                 .panels = how_many(across, wide),
                 .tall = tall,
                 .groups = how_many(down, tall)};
}

/* Columns of blocks from `start` to `end`, so many blocks of depth from `d` on, one after the other. */
static void pack_columns(const matrix *right, count start, count end, count d, count depth,
                         real *packed) {
    if (right->by_depth)
        for (count b = 0; b < depth; b++)
            pack_right(right, (d + b) * DEPTH, start * LANES, end - start, packed + b * BLOCK,
                       depth * BLOCK);
    else
        for (count c = start; c < end; c++, packed += depth * BLOCK)
            pack_right(right, c * LANES, d * DEPTH, depth, packed, BLOCK);
}

/* All of them, by all threads: each takes 32 rows in memory at a time. */
static void pack_together(const matrix *right, real *packed) {
    count across = blocks_of(right->lanes), deep = blocks_of(right->depth);
#pragma omp for schedule(dynamic)
    for (count b = 0; b < (right->by_depth ? deep : across); b++)
        if (right->by_depth)
            pack_right(right, b * DEPTH, 0, across, packed + b * BLOCK, deep * BLOCK);
        else
            pack_right(right, b * LANES, 0, deep, packed + b * deep * BLOCK, BLOCK);
}

/* 32 rows of what is left, packed into `own` where they cannot be multiplied as they are. */
static view rows_of(const matrix *left, count row, count depth, count blocks, real *own) {
#ifndef __AMX_BF16__
    if (row + LANES <= left->lanes && (depth + blocks) * DEPTH <= left->depth)
        return (view){(const real *)left->data + row * left->stride + depth * DEPTH, left->stride,
                      DEPTH};
#endif
    pack_left(left, row, depth * DEPTH, blocks, own, BLOCK);
    return in_blocks(own);
}

/* 32 rows by columns of blocks from `start` to `end`, so many blocks of depth from `d` on; `sums` are
those of the parts before, if there are any. */
static void multiply_rows(const matrix *left, const matrix *right, const job *todo, count row,
                          count start, count end, count d, count depth, const real *packed,
                          float *sums, real *own) {
    float block[LANES * LANES] __attribute__((aligned(64)));
    view rows = rows_of(left, row, d, depth, own);
    int is_last = d + depth == blocks_of(left->depth);
    for (count c = start; c < end; c++, packed += depth * BLOCK) {
        count column = c * LANES, at = row * todo->columns + column;
        if (is_last) {
            fetch(todo->out, sizeof(real), at, todo->columns, _MM_HINT_ET0);
            fetch(todo->slope, sizeof(real), at, todo->columns, _MM_HINT_ET0);
            fetch(todo->residual, sizeof(float), at, todo->columns, _MM_HINT_ET0);
            fetch(todo->total, sizeof(float), at, todo->columns, _MM_HINT_ET0);
        }
        float *here = sums ? sums + (c - start) * LANES * LANES : block;
        multiply(rows, packed, depth, here, LANES, d > 0);
        if (is_last)
            todo->block(todo, row, column, least(LANES, left->lanes - row),
                        least(LANES, right->lanes - column), here);
    }
}

/* Threads take what is next to be done: one of them may get less of its core than another. That
changes no bits: each sum has its place, and its order. */
static int product(const matrix *left, const matrix *right, const job *todo, int threads) {
    count down = blocks_of(left->lanes), across = blocks_of(right->lanes);
    count deep = blocks_of(left->depth);
    cut by = cut_of(down, across, deep, threads);
    count shared_blocks = by.is_shared ? across * deep : 0;
    count packed_blocks = by.is_shared ? 0 : by.wide * by.part;
    count sums_blocks = by.part < deep ? 2 * by.tall * by.wide : 0;
    count own_blocks = packed_blocks + sums_blocks + by.part;
    real *shared = room_for(shared_blocks + threads * own_blocks);
    if (!shared) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
        real *room = shared + (shared_blocks + omp_get_thread_num() * own_blocks) * BLOCK;
        real *packed = by.is_shared ? shared : room, *own = room + packed_blocks * BLOCK;
        float *sums = sums_blocks ? (float *)(own + by.part * BLOCK) : NULL;
        if (by.is_shared) pack_together(right, shared);
#pragma omp for schedule(dynamic)
        for (count task = 0; task < by.panels * by.groups; task++) {
            count start = task % by.panels * by.wide, end = least(across, start + by.wide);
            count top = task / by.panels * by.tall, bottom = least(down, top + by.tall);
            for (count d = 0; d < deep; d += by.part) {
                count depth = least(by.part, deep - d);
                if (!by.is_shared) pack_columns(right, start, end, d, depth, packed);
                for (count r = top; r < bottom; r++)
                    multiply_rows(left, right, todo, r * LANES, start, end, d, depth, packed,
                                  sums ? sums + (r - top) * by.wide * LANES * LANES : NULL, own);
            }
        }
        if (todo->rows)
#pragma omp for schedule(dynamic)
            for (count first = 0; first < left->lanes; first += ROWS_TOGETHER)
                todo->rows(todo, first, least(left->lanes, first + ROWS_TOGETHER));
        _mm_sfence(); /* what was streamed is there for all threads */
        end_tiles(before);
    }
    free(shared);
    return 0;
}

static void store_block(const job *todo, count row, count column, count height, count width,
                        const float *sums) {
    pair bias = todo->bias ? load_floats(todo->bias + column, width) : same(0);
    for (count i = 0, at = row * todo->columns + column; i < height; i++, at += todo->columns)
        store_reals(todo->out + at, plus(load_floats(sums + i * LANES, LANES), bias), width);
}

/* `gelu_of` for 16 elements, its reciprocal to 6e-5 of it: a thirtieth of what rounding may take. */
INLINE void gelu_of_16(__m512 x, __m512 *y, __m512 *slope) {
    const float scale = 1.5957691216f, cubic = 0.044715f * scale;
    __m512 square = _mm512_mul_ps(x, x), one = _mm512_set1_ps(1);
    __m512 bent = _mm512_fmadd_ps(square, _mm512_set1_ps(-cubic * LOG2_E),
                                  _mm512_set1_ps(-scale * LOG2_E));
    __m512 gate = _mm512_rcp14_ps(_mm512_add_ps(power_of_two(_mm512_mul_ps(x, bent)), one));
    __m512 gated = _mm512_mul_ps(x, gate), rest = _mm512_fnmadd_ps(gated, gate, gated);
    __m512 inner = _mm512_fmadd_ps(square, _mm512_set1_ps(3 * cubic), _mm512_set1_ps(scale));
    *y = gated;
    *slope = _mm512_fmadd_ps(rest, inner, gate);
}

static void gelu_block(const job *todo, count row, count column, count height, count width,
                       const float *sums) {
    pair bias = load_floats(todo->bias + column, width), y, slope;
    for (count i = 0, at = row * todo->columns + column; i < height; i++, at += todo->columns) {
        pair x = plus(load_floats(sums + i * LANES, LANES), bias);
        gelu_of_16(x.low, &y.low, &slope.low);
        gelu_of_16(x.high, &y.high, &slope.high);
        store_reals(todo->out + at, y, width);
        stream_reals(todo->kept + at, slope, width);
    }
}

static void add_block(const job *todo, count row, count column, count height, count width,
                      const float *sums) {
    pair bias = load_floats(todo->bias + column, width);
    for (count i = 0, at = row * todo->columns + column; i < height; i++, at += todo->columns) {
        pair total = plus(load_floats(sums + i * LANES, LANES),
                         load_floats(todo->residual + at, width));
        store_floats(todo->total + at, plus(total, bias), width);
    }
}

static void slope_block(const job *todo, count row, count column, count height, count width,
                        const float *sums) {
    pair total = same(0);
    for (count i = 0, at = row * todo->columns + column; i < height; i++, at += todo->columns) {
        pair gradient = times(load_floats(sums + i * LANES, LANES),
                              load_reals(todo->slope + at, width));
        total = plus(total, gradient);
        store_reals(todo->out + at, gradient, width);
    }
    store_floats(todo->sums_of_rows + row / LANES * todo->columns + column, total, width);
}

static void norm_rows(const job *todo, count first, count end) {
    for (count n = first; n < end; n++) {
        count at = n * todo->columns;
        norm_row(todo->total + at, todo->gain, todo->shift, todo->eps, todo->out + at,
                 todo->mean + n, todo->rstd + n, todo->columns);
    }
}

static void norm_backward_rows(const job *todo, count first, count end) {
    float *sums = todo->sums_of_rows + first / ROWS_TOGETHER * 2 * todo->columns;
    memset(sums, 0, 2 * todo->columns * sizeof(float));
    for (count n = first; n < end; n++) {
        count at = n * todo->columns;
        norm_backward_row(todo->out + at, todo->x + at, todo->mean[n], todo->rstd[n], todo->gain,
                          todo->residual + at, todo->total + at, sums, todo->columns);
    }
}

/* A product whose job sums over so many rows at a time; all of these sums into `out`. */
static int product_and_sums(const matrix *left, const matrix *right, job *todo, count together,
                            count columns, float *out, int threads) {
    count parts = (left->lanes + together - 1) / together;
    todo->sums_of_rows = malloc(parts * columns * sizeof(float));
    if (!todo->sums_of_rows) return NO_MEMORY;
    int failure = product(left, right, todo, threads);
    add_up(todo->sums_of_rows, out, parts, columns);
    free(todo->sums_of_rows);
    return failure;
}

static matrix activations(const real *x, count rows, count depth) {
    return (matrix){.data = x, .stride = depth, .lanes = rows, .depth = depth};
}

static matrix weights(const float *w, count depth, count columns) {
    return (matrix){
        .data = w, .stride = depth, .lanes = columns, .depth = depth, .is_float = 1};
}

/* Of a layer whose weights are (depth, columns): its gradients (rows, depth) go back to its input. */
static matrix weights_backward(const float *w, count depth, count columns) {
    return (matrix){.data = w,
                    .stride = columns,
                    .lanes = columns,
                    .depth = depth,
                    .by_depth = 1,
                    .is_float = 1};
}

int linear(const real *x, const float *w, real *out, count rows, count depth, count columns,
           int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    job todo = {.block = store_block, .columns = columns, .out = out};
    return product(&left, &right, &todo, threads);
}

int linear_bias(const real *x, const float *w, const float *bias, real *out, count rows, count depth,
                count columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    job todo = {.block = store_block, .columns = columns, .out = out, .bias = bias};
    return product(&left, &right, &todo, threads);
}

int linear_gelu(const real *x, const float *w, const float *bias, real *out, real *slope, count rows,
                count depth, count columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    job todo = {
        .block = gelu_block, .columns = columns, .out = out, .kept = slope, .bias = bias};
    return product(&left, &right, &todo, threads);
}

int linear_add(const real *x, const float *w, const float *bias, const float *residual, float *total,
               count rows, count depth, count columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    job todo = {.block = add_block,
                .columns = columns,
                .bias = bias,
                .residual = residual,
                .total = total};
    return product(&left, &right, &todo, threads);
}

int linear_add_norm(const real *x, const float *w, const float *bias, const float *residual,
                    const float *gain, const float *shift, float eps, float *total, real *normed,
                    float *mean, float *rstd, count rows, count depth, count columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    job todo = {.block = add_block,
                .rows = norm_rows,
                .columns = columns,
                .out = normed,
                .bias = bias,
                .residual = residual,
                .gain = gain,
                .shift = shift,
                .total = total,
                .mean = mean,
                .rstd = rstd,
                .eps = eps};
    return product(&left, &right, &todo, threads);
}

int linear_backward(const real *d, const float *w, real *d_x, count rows, count depth, count columns,
                    int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    job todo = {.block = store_block, .columns = columns, .out = d_x};
    return product(&left, &right, &todo, threads);
}

/* The gradient times slope, and its sums over rows. */
int linear_backward_slope(const real *d, const float *w, const real *slope, real *d_x,
                          float *column_sums, count rows, count depth, count columns, int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    job todo = {
        .block = slope_block, .columns = columns, .out = d_x, .slope = slope};
    return product_and_sums(&left, &right, &todo, LANES, columns, column_sums, threads);
}

/* `norm_backward` of the gradient. */
int linear_backward_norm(const real *d, const float *w, const float *x, const float *mean,
                         const float *rstd, const float *gain, const float *residual, real *d_normed,
                         float *d_x, float *column_sums, count rows, count depth, count columns,
                         int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    job todo = {.block = store_block,
                .rows = norm_backward_rows,
                .columns = columns,
                .out = d_normed,
                .residual = residual,
                .gain = gain,
                .x = x,
                .total = d_x,
                .mean = (float *)mean,
                .rstd = (float *)rstd};
    return product_and_sums(&left, &right, &todo, ROWS_TOGETHER, 2 * columns, column_sums,
                            threads);
}

/* Sums over rows of d (rows, height) times x (rows, width): (height, width). */
int linear_weights(const real *d, const real *x, float *d_w, count rows, count height, count width,
                   int threads) {
    matrix left = {.data = d, .stride = height, .lanes = height, .depth = rows, .by_depth = 1};
    matrix right = {.data = x, .stride = width, .lanes = width, .depth = rows, .by_depth = 1};
    count down = blocks_of(height), across = blocks_of(width);
    count panel = least(PANEL / DEPTH, blocks_of(rows));
    count wide = least(across, GROUP / (panel * BLOCK * sizeof(real)));
    count groups = (across + wide - 1) / wide;
    real *packed = room_for((down + across) * panel);
    if (!packed) return NO_MEMORY;
    real *packed_right = packed + down * panel * BLOCK;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
        for (count n = 0; n < rows; n += panel * DEPTH) {
            count depth = least(panel, blocks_of(rows - n));
#pragma omp for schedule(dynamic)
            for (count b = 0; b < depth; b++) {
                count row = n + b * DEPTH;
                pack_left(&left, row, 0, down, packed + b * BLOCK, panel * BLOCK);
                pack_right(&right, row, 0, across, packed_right + b * BLOCK, panel * BLOCK);
            }
#pragma omp for schedule(dynamic)
            for (count task = 0; task < groups * down; task++) {
                count row = task % down * LANES, start = task / down * wide;
                for (count c = start; c < least(across, start + wide); c++)
                    multiply_into(in_blocks(packed + task % down * panel * BLOCK),
                                  packed_right + c * panel * BLOCK, depth,
                                  d_w + row * width + c * LANES, width, least(LANES, height - row),
                                  least(LANES, width - c * LANES), n > 0);
            }
        }
        end_tiles(before);
    }
    free(packed);
    return 0;
}

#endif
