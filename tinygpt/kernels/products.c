/* Products of bfloat16 matrices, summed in float, each followed by an epilogue on cached blocks.

They use AMX, or the AVX-512 instructions for bfloat16; without either only `multiplies` is
compiled. Weights are float matrices (columns, depth), rounded to bfloat16 when they are packed. */

#define _GNU_SOURCE /* for syscall */
#include "blocks.h"
#include "kernels.h"

#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The instructions in use: 0 none, 1 AVX-512, 2 AMX, which needs permission from the kernel. */
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

/* Bytes of the right operand that a thread packs at a time when nothing is shared; bounded by its
L2 cache. AMX repacks the left operand for each such group of columns, so larger groups pay there.
*/
#ifdef __AMX_BF16__
enum { PRIVATE_BYTES = 5 << 18 };
#else
enum { PRIVATE_BYTES = 600 << 10 };
#endif

enum {
    SHARED_BYTES = 5
        << 18,         /* bytes: up to this size the right operand is packed once, by all threads */
    PART_DEPTH = 1024, /* a deeper product is summed in parts of about this depth, */
    MIN_ROW_BLOCKS = 64,   /* and at least this many blocks of rows use each packed part */
    PANEL_ROWS = 1024,     /* linear_weights: rows that are packed at a time, */
    GROUP_BYTES = 1 << 19, /* and bytes of right columns in a task */
};

/* What follows a product: `block` is called for each 32 x 32 block of sums while it is cached, then
`rows` (if not NULL) for each group of ROWS_PER_SUM complete rows. Arrays are (rows, columns). */
typedef struct epilogue {
    void (*block)(const struct epilogue *, int64 row, int64 column, int64 height, int64 width,
                  const float *sums);
    void (*rows)(const struct epilogue *, int64 first, int64 end);
    int64 columns;
    real *out, *kept, *other;
    const real *slope, *other_slope, *more; /* `more` is added to the sums by `store_block` */
    const float *bias, *residual, *x;
    float *total, *mean, *rstd, *sums_of_rows;
    norm_kind norm;
    dropout drop; /* if it has a threshold, `x` is what `total` is added to once it is dropped */
} epilogue;

/* A product is divided into `panels` x `groups` tasks of `wide` blocks of columns x `tall` blocks
of rows; a task goes through the depth in parts of `part` blocks. The right operand is packed once
by all threads (`is_shared`), or by each task for itself. */
typedef struct {
    int is_shared;
    int64 part, wide, panels, tall, groups;
} tiling;

static inline int64 ceil_div(int64 all, int64 each) { return (all + each - 1) / each; }

static tiling choose_tiling(int64 row_blocks, int64 column_blocks, int64 depth_blocks,
                            int threads) {
    int64 bytes = BLOCK * sizeof(real), enough = 2 * threads;
    if (column_blocks * depth_blocks * bytes <= SHARED_BYTES)
        return (tiling){.is_shared = 1,
                        .part = depth_blocks,
                        .wide = column_blocks,
                        .panels = 1,
                        .tall = 1,
                        .groups = row_blocks};
    int64 part = ceil_div(depth_blocks, ceil_div(depth_blocks, PART_DEPTH / DEPTH));
    int64 panels = ceil_div(column_blocks, min(column_blocks, PRIVATE_BYTES / (part * bytes)));
    int64 groups = min(ceil_div(enough, panels),
                       row_blocks > MIN_ROW_BLOCKS ? row_blocks / MIN_ROW_BLOCKS : 1);
    /* the same number for each thread, so that all finish together */
    panels = ceil_div(ceil_div(panels * groups, enough) * enough, groups);
    int64 wide = ceil_div(column_blocks, panels), tall = ceil_div(row_blocks, groups);
    return (tiling){.part = part,
                    .wide = wide,
                    .panels = ceil_div(column_blocks, wide),
                    .tall = tall,
                    .groups = ceil_div(row_blocks, tall)};
}

/* Pack block columns `start` to `end`, `depth` blocks of depth from block `d` on. */
static void pack_columns(const matrix *right, int64 start, int64 end, int64 d, int64 depth,
                         real *packed) {
    if (right->by_depth)
        for (int64 b = 0; b < depth; b++)
            pack_right(right, (d + b) * DEPTH, start * LANES, end - start, packed + b * BLOCK,
                       depth * BLOCK);
    else
        for (int64 c = start; c < end; c++, packed += depth * BLOCK)
            pack_right(right, c * LANES, d * DEPTH, depth, packed, BLOCK);
}

/* Pack the whole operand with all threads; each takes 32 rows in memory at a time. Ends in a
barrier. */
static void pack_together(const matrix *right, real *packed) {
    int64 column_blocks = n_blocks(right->lanes), depth_blocks = n_blocks(right->depth);
#pragma omp for schedule(dynamic)
    for (int64 b = 0; b < (right->by_depth ? depth_blocks : column_blocks); b++)
        if (right->by_depth)
            pack_right(right, b * DEPTH, 0, column_blocks, packed + b * BLOCK,
                       depth_blocks * BLOCK);
        else
            pack_right(right, b * LANES, 0, depth_blocks, packed + b * depth_blocks * BLOCK, BLOCK);
}

/* 32 lanes of the left operand, packed into `own` unless they can be read in place. */
static view rows_of(const matrix *left, int64 row, int64 depth, int64 blocks, real *own) {
#ifndef __AMX_BF16__
    if (row + LANES <= left->lanes && (depth + blocks) * DEPTH <= left->depth)
        return (view){(const real *)left->data + row * left->stride + depth * DEPTH, left->stride,
                      DEPTH};
#endif
    pack_left(left, row, depth * DEPTH, blocks, own, BLOCK);
    return packed_view(own);
}

/* 32 rows times block columns `start` to `end`, `depth` blocks of depth from block `d` on. `sums`
carries partial sums from one part of the depth to the next; NULL if there is one part. */
static void multiply_rows(const matrix *left, const matrix *right, const epilogue *job, int64 row,
                          int64 start, int64 end, int64 d, int64 depth, const real *packed,
                          float *sums, real *own) {
    float block[LANES * LANES] __attribute__((aligned(64)));
    view rows = rows_of(left, row, d, depth, own);
    int is_last = d + depth == n_blocks(left->depth);
    for (int64 c = start; c < end; c++, packed += depth * BLOCK) {
        int64 column = c * LANES, at = row * job->columns + column;
        if (is_last) {
            prefetch(job->out, sizeof(real), at, job->columns, _MM_HINT_ET0);
            prefetch(job->slope, sizeof(real), at, job->columns, _MM_HINT_ET0);
            prefetch(job->other, sizeof(real), at, job->columns, _MM_HINT_ET0);
            prefetch(job->other_slope, sizeof(real), at, job->columns, _MM_HINT_ET0);
            prefetch(job->more, sizeof(real), at, job->columns, _MM_HINT_ET0);
            prefetch(job->residual, sizeof(float), at, job->columns, _MM_HINT_ET0);
            prefetch(job->total, sizeof(float), at, job->columns, _MM_HINT_ET0);
        }
        float *out = sums ? sums + (c - start) * LANES * LANES : block;
        multiply(rows, packed, depth, out, LANES, d > 0);
        if (is_last)
            job->block(job, row, column, min(LANES, left->lanes - row),
                       min(LANES, right->lanes - column), out);
    }
}

/* Tasks are handed out dynamically, because a thread may get less of its core than another. This
does not change any bit: each sum is computed by one thread in a fixed order. */
static int product(const matrix *left, const matrix *right, const epilogue *job, int threads) {
    int64 row_blocks = n_blocks(left->lanes), column_blocks = n_blocks(right->lanes);
    int64 depth_blocks = n_blocks(left->depth);
    tiling by = choose_tiling(row_blocks, column_blocks, depth_blocks, threads);
    int64 shared_blocks = by.is_shared ? column_blocks * depth_blocks : 0;
    int64 packed_blocks = by.is_shared ? 0 : by.wide * by.part;
    int64 sums_blocks = by.part < depth_blocks ? 2 * by.tall * by.wide : 0;
    int64 own_blocks = packed_blocks + sums_blocks + by.part;
    real *shared = alloc_blocks(shared_blocks + threads * own_blocks);
    if (!shared) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
        real *scratch = shared + (shared_blocks + omp_get_thread_num() * own_blocks) * BLOCK;
        real *packed = by.is_shared ? shared : scratch, *own = scratch + packed_blocks * BLOCK;
        float *sums = sums_blocks ? (float *)(own + by.part * BLOCK) : NULL;
        if (by.is_shared) pack_together(right, shared);
#pragma omp for schedule(dynamic)
        for (int64 task = 0; task < by.panels * by.groups; task++) {
            int64 start = task % by.panels * by.wide, end = min(column_blocks, start + by.wide);
            int64 top = task / by.panels * by.tall, bottom = min(row_blocks, top + by.tall);
            for (int64 d = 0; d < depth_blocks; d += by.part) {
                int64 depth = min(by.part, depth_blocks - d);
                if (!by.is_shared) pack_columns(right, start, end, d, depth, packed);
                for (int64 r = top; r < bottom; r++)
                    multiply_rows(left, right, job, r * LANES, start, end, d, depth, packed,
                                  sums ? sums + (r - top) * by.wide * LANES * LANES : NULL, own);
            }
        }
        if (job->rows)
#pragma omp for schedule(dynamic)
            for (int64 first = 0; first < left->lanes; first += ROWS_PER_SUM)
                job->rows(job, first, min(left->lanes, first + ROWS_PER_SUM));
        _mm_sfence(); /* make streamed stores visible to all threads */
        end_tiles(before);
    }
    free(shared);
    return 0;
}

INLINE pair bias_of(const epilogue *job, int64 column, int64 width) {
    return job->bias ? load_floats(job->bias + column, width) : broadcast(0);
}

static void store_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                        const float *sums) {
    pair bias = bias_of(job, column, width);
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair total = add_pair(load_floats(sums + i * LANES, LANES), bias);
        if (job->more) total = add_pair(total, load_reals(job->more + at, width));
        store_reals(job->out + at, total, width);
    }
}

/* `gelu_of` for 16 elements. The reciprocal's relative error, 6e-5, is a thirtieth of bfloat16's. */
INLINE void gelu_of_16(__m512 x, __m512 *y, __m512 *slope) {
    const float scale = 1.5957691216f, cubic = 0.044715f * scale;
    __m512 square = _mm512_mul_ps(x, x), one = _mm512_set1_ps(1);
    __m512 log_ratio =
        _mm512_fmadd_ps(square, _mm512_set1_ps(-cubic * LOG2_E), _mm512_set1_ps(-scale * LOG2_E));
    __m512 gate = _mm512_rcp14_ps(_mm512_add_ps(power_of_two(_mm512_mul_ps(x, log_ratio)), one));
    __m512 gated = _mm512_mul_ps(x, gate), rest = _mm512_fnmadd_ps(gated, gate, gated);
    __m512 inner = _mm512_fmadd_ps(square, _mm512_set1_ps(3 * cubic), _mm512_set1_ps(scale));
    *y = gated;
    *slope = _mm512_fmadd_ps(rest, inner, gate);
}

static void gelu_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                       const float *sums) {
    pair bias = bias_of(job, column, width), y, slope;
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair x = add_pair(load_floats(sums + i * LANES, LANES), bias);
        gelu_of_16(x.low, &y.low, &slope.low);
        gelu_of_16(x.high, &y.high, &slope.high);
        store_reals(job->out + at, y, width);
        stream_reals(job->kept + at, slope, width);
    }
}

static void relu2_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                        const float *sums) {
    pair bias = bias_of(job, column, width), zero = broadcast(0);
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair x = add_pair(load_floats(sums + i * LANES, LANES), bias);
        /* the second operand is the result where one is NaN */
        x = (pair){_mm512_max_ps(zero.low, x.low), _mm512_max_ps(zero.high, x.high)};
        store_reals(job->out + at, mul_pair(x, x), width);
        stream_reals(job->kept + at, add_pair(x, x), width);
    }
}

/* `silu_of` for 16 elements; see `gelu_of_16`. For x below -88 the reciprocal is of infinity: 0. */
INLINE void silu_of_16(__m512 x, __m512 *y, __m512 *slope) {
    __m512 power = power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    __m512 gate = _mm512_rcp14_ps(_mm512_add_ps(power, _mm512_set1_ps(1)));
    __m512 gated = _mm512_mul_ps(x, gate);
    *y = gated;
    *slope = _mm512_add_ps(gate, _mm512_fnmadd_ps(gated, gate, gated));
}

/* The sums are the factor of the gate, which `other` holds: out = silu(gate) times it; `other` becomes
the derivative with respect to the gate, and `kept` is that with respect to the factor. */
static void swiglu_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                         const float *sums) {
    pair bias = bias_of(job, column, width), y, slope;
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair factor = add_pair(load_floats(sums + i * LANES, LANES), bias);
        pair gate = load_reals(job->other + at, width);
        silu_of_16(gate.low, &y.low, &slope.low);
        silu_of_16(gate.high, &y.high, &slope.high);
        store_reals(job->out + at, mul_pair(y, factor), width);
        store_reals(job->other + at, mul_pair(slope, factor), width);
        stream_reals(job->kept + at, y, width);
    }
}

static void add_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                      const float *sums) {
    pair bias = bias_of(job, column, width);
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair total = load_floats(sums + i * LANES, LANES);
        if (job->residual) total = add_pair(total, load_floats(job->residual + at, width));
        store_floats(job->total + at, add_pair(total, bias), width);
    }
}

static void slope_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                        const float *sums) {
    pair total = broadcast(0);
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair gradient =
            mul_pair(load_floats(sums + i * LANES, LANES), load_reals(job->slope + at, width));
        total = add_pair(total, gradient);
        store_reals(job->out + at, gradient, width);
    }
    store_floats(job->sums_of_rows + row / LANES * job->columns + column, total, width);
}

/* `slope_block` with two slopes; the row of sums is (2, columns). */
static void slopes_block(const epilogue *job, int64 row, int64 column, int64 height, int64 width,
                         const float *sums) {
    pair total = broadcast(0), other_total = broadcast(0);
    for (int64 i = 0, at = row * job->columns + column; i < height; i++, at += job->columns) {
        pair d = load_floats(sums + i * LANES, LANES);
        pair gradient = mul_pair(d, load_reals(job->slope + at, width));
        pair other = mul_pair(d, load_reals(job->other_slope + at, width));
        total = add_pair(total, gradient);
        other_total = add_pair(other_total, other);
        store_reals(job->out + at, gradient, width);
        store_reals(job->other + at, other, width);
    }
    float *out = job->sums_of_rows + row / LANES * 2 * job->columns + column;
    store_floats(out, total, width);
    store_floats(out + job->columns, other_total, width);
}

/* total = x + total times the factors of dropout. */
static void drop_rows(const epilogue *job, int64 first, int64 end) {
    float factors[DROPOUT_COLUMNS];
    for (int64 n = first; n < end; n++)
        for (int64 c = 0; c < job->columns; c += DROPOUT_COLUMNS) {
            int64 at = n * job->columns + c;
            dropout_factors(job->drop, n, c / DROPOUT_COLUMNS, factors);
#pragma omp simd
            for (int64 i = 0; i < min(DROPOUT_COLUMNS, job->columns - c); i++)
                job->total[at + i] = job->x[at + i] + job->total[at + i] * factors[i];
        }
}

static void norm_rows(const epilogue *job, int64 first, int64 end) {
    for (int64 n = first; n < end; n++) {
        int64 at = n * job->columns;
        if (job->drop.threshold) drop_rows(job, n, n + 1);
        norm_row(job->total + at, job->norm, job->out + at, job->mean + n, job->rstd + n,
                 job->columns);
    }
}

static void norm_backward_rows(const epilogue *job, int64 first, int64 end) {
    float *sums = job->sums_of_rows + first / ROWS_PER_SUM * 2 * job->columns;
    memset(sums, 0, 2 * job->columns * sizeof(float));
    for (int64 n = first; n < end; n++) {
        int64 at = n * job->columns;
        norm_backward_row(job->out + at, job->x + at, job->mean[n], job->rstd[n], job->norm,
                          job->residual + at, job->total + at, sums, job->columns);
    }
}

/* A product whose epilogue writes a row of sums for every `together` rows; out = the sum of these. */
static int product_and_sums(const matrix *left, const matrix *right, epilogue *job, int64 together,
                            int64 columns, float *out, int threads) {
    int64 parts = (left->lanes + together - 1) / together;
    job->sums_of_rows = malloc(parts * columns * sizeof(float));
    if (!job->sums_of_rows) return NO_MEMORY;
    int failure = product(left, right, job, threads);
    if (!failure) sum_rows(job->sums_of_rows, out, parts, columns);
    free(job->sums_of_rows);
    return failure;
}

static matrix activations(const real *x, int64 rows, int64 depth) {
    return (matrix){.data = x, .stride = depth, .lanes = rows, .depth = depth};
}

static matrix weights(const float *w, int64 depth, int64 columns) {
    return (matrix){.data = w, .stride = depth, .lanes = columns, .depth = depth, .is_float = 1};
}

/* Weights (depth, columns) as the right operand of the gradient of a layer's input. */
static matrix weights_backward(const float *w, int64 depth, int64 columns) {
    return (matrix){.data = w,
                    .stride = columns,
                    .lanes = columns,
                    .depth = depth,
                    .by_depth = 1,
                    .is_float = 1};
}

int linear(const real *x, const float *w, real *out, int64 rows, int64 depth, int64 columns,
           int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {.block = store_block, .columns = columns, .out = out};
    return product(&left, &right, &job, threads);
}

int linear_bias(const real *x, const float *w, const float *bias, real *out, int64 rows,
                int64 depth, int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {.block = store_block, .columns = columns, .out = out, .bias = bias};
    return product(&left, &right, &job, threads);
}

int linear_gelu(const real *x, const float *w, const float *bias, real *out, real *slope,
                int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {
        .block = gelu_block, .columns = columns, .out = out, .kept = slope, .bias = bias};
    return product(&left, &right, &job, threads);
}

int linear_relu2(const real *x, const float *w, const float *bias, real *out, real *slope,
                 int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {
        .block = relu2_block, .columns = columns, .out = out, .kept = slope, .bias = bias};
    return product(&left, &right, &job, threads);
}

/* `gate` has its bias already; it becomes the derivative with respect to the gate, and `slope` that
with respect to x times weights. */
int linear_swiglu(const real *x, const float *w, const float *bias, real *gate, real *out,
                  real *slope, int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {.block = swiglu_block,
                    .columns = columns,
                    .out = out,
                    .kept = slope,
                    .other = gate,
                    .bias = bias};
    return product(&left, &right, &job, threads);
}

int linear_add(const real *x, const float *w, const float *bias, const float *residual,
               float *total, int64 key, int64 stream, int64 threshold, int64 rows, int64 depth,
               int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {.block = add_block,
                    .rows = threshold ? drop_rows : NULL,
                    .columns = columns,
                    .bias = bias,
                    .residual = threshold ? NULL : residual,
                    .x = residual,
                    .total = total,
                    .drop = {key, stream, threshold}};
    return product(&left, &right, &job, threads);
}

int linear_add_norm(const real *x, const float *w, const float *bias, const float *residual,
                    const float *gain, const float *shift, float eps, int64 is_rms, float *total,
                    real *normed, float *mean, float *rstd, int64 key, int64 stream,
                    int64 threshold, int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(x, rows, depth), right = weights(w, depth, columns);
    epilogue job = {.block = add_block,
                    .rows = norm_rows,
                    .columns = columns,
                    .out = normed,
                    .bias = bias,
                    .residual = threshold ? NULL : residual,
                    .x = residual,
                    .drop = {key, stream, threshold},
                    .norm = {gain, shift, eps, is_rms},
                    .total = total,
                    .mean = mean,
                    .rstd = rstd};
    return product(&left, &right, &job, threads);
}

int linear_backward(const real *d, const float *w, real *d_x, int64 rows, int64 depth,
                    int64 columns, int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    epilogue job = {.block = store_block, .columns = columns, .out = d_x};
    return product(&left, &right, &job, threads);
}

/* d_x = (d times weights) * slope, and its sums over rows. */
int linear_backward_slope(const real *d, const float *w, const real *slope, real *d_x,
                          float *column_sums, int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    epilogue job = {.block = slope_block, .columns = columns, .out = d_x, .slope = slope};
    return product_and_sums(&left, &right, &job, LANES, columns, column_sums, threads);
}

/* d_x = d times weights, times `slope` and, as `other`, times `other_slope`; column_sums (2, columns). */
int linear_backward_slopes(const real *d, const float *w, const real *slope,
                           const real *other_slope, real *d_x, real *other, float *column_sums,
                           int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    epilogue job = {.block = slopes_block,
                    .columns = columns,
                    .out = d_x,
                    .other = other,
                    .slope = slope,
                    .other_slope = other_slope};
    return product_and_sums(&left, &right, &job, LANES, 2 * columns, column_sums, threads);
}

/* `norm_backward` of d times weights, plus `more` (NULL: none). */
int linear_backward_norm(const real *d, const float *w, const real *more, const float *x,
                         const float *mean, const float *rstd, const float *gain, int64 is_rms,
                         const float *residual, real *d_normed, float *d_x, float *column_sums,
                         int64 rows, int64 depth, int64 columns, int threads) {
    matrix left = activations(d, rows, depth), right = weights_backward(w, depth, columns);
    epilogue job = {.block = store_block,
                    .rows = norm_backward_rows,
                    .columns = columns,
                    .out = d_normed,
                    .more = more,
                    .residual = residual,
                    .norm = {.gain = gain, .is_rms = is_rms},
                    .x = x,
                    .total = d_x,
                    .mean = (float *)mean,
                    .rstd = (float *)rstd};
    return product_and_sums(&left, &right, &job, ROWS_PER_SUM, 2 * columns, column_sums, threads);
}

/* d_w (height, width) = transposed d (rows, height) times x (rows, width). */
int linear_weights(const real *d, const real *x, float *d_w, int64 rows, int64 height, int64 width,
                   int threads) {
    matrix left = {.data = d, .stride = height, .lanes = height, .depth = rows, .by_depth = 1};
    matrix right = {.data = x, .stride = width, .lanes = width, .depth = rows, .by_depth = 1};
    int64 row_blocks = n_blocks(height), column_blocks = n_blocks(width);
    int64 panel = min(PANEL_ROWS / DEPTH, n_blocks(rows));
    int64 wide = min(column_blocks, GROUP_BYTES / (panel * BLOCK * sizeof(real)));
    int64 groups = (column_blocks + wide - 1) / wide;
    real *packed = alloc_blocks((row_blocks + column_blocks) * panel);
    if (!packed) return NO_MEMORY;
    real *packed_right = packed + row_blocks * panel * BLOCK;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
        for (int64 n = 0; n < rows; n += panel * DEPTH) {
            int64 depth = min(panel, n_blocks(rows - n));
#pragma omp for schedule(dynamic)
            for (int64 b = 0; b < depth; b++) {
                int64 row = n + b * DEPTH;
                pack_left(&left, row, 0, row_blocks, packed + b * BLOCK, panel * BLOCK);
                pack_right(&right, row, 0, column_blocks, packed_right + b * BLOCK, panel * BLOCK);
            }
#pragma omp for schedule(dynamic)
            for (int64 task = 0; task < groups * row_blocks; task++) {
                int64 row = task % row_blocks * LANES, start = task / row_blocks * wide;
                for (int64 c = start; c < min(column_blocks, start + wide); c++)
                    multiply_into(packed_view(packed + task % row_blocks * panel * BLOCK),
                                  packed_right + c * panel * BLOCK, depth,
                                  d_w + row * width + c * LANES, width, min(LANES, height - row),
                                  min(LANES, width - c * LANES), n > 0);
            }
        }
        end_tiles(before);
    }
    free(packed);
    return 0;
}

#endif
