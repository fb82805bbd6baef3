/* Causal attention; one thread computes one head, and its scores stay in the caches.

After Dao 2023, "FlashAttention-2" (arXiv 2307.08691): the forward keeps only the logarithm of each
row's sum of exponentials, and the backward recomputes the probabilities.  Heads are read where the
linear layer wrote them: qkv and its gradient are (B, T, H + 2 G, D), y and its gradient (B, T, H, D).
H / G heads of queries share a head of keys and values ("GQA", arXiv 2305.13245). */

#include "blocks.h"
#include "kernels.h"

#ifdef __AVX512BF16__
#include <omp.h>

enum { SPAN = 8 }; /* blocks of queries whose probabilities the backward holds at a time */

/* Sizes B, T, H, G, D; blocks in T and in D; the distance between tokens in y and in qkv; the length of
a row of scores, T rounded up to whole blocks. */
typedef struct {
    int64 batch, time, heads, kv_heads, width, time_blocks, depth_blocks, y_stride, qkv_stride, stride;
    const int64 *starts; /* (B, T): the first key that each query sees; NULL: all from 0 */
    dropout drop;        /* of probabilities */
} shape;

static shape shape_of(int64 batch, int64 time, int64 heads, int64 kv_heads, int64 width,
                      const int64 *starts, dropout drop) {
    int64 time_blocks = n_blocks(time), y_stride = heads * width;
    return (shape){.batch = batch,
                   .time = time,
                   .heads = heads,
                   .kv_heads = kv_heads,
                   .width = width,
                   .time_blocks = time_blocks,
                   .depth_blocks = n_blocks(width),
                   .y_stride = y_stride,
                   .qkv_stride = y_stride + 2 * kv_heads * width,
                   .stride = time_blocks * LANES,
                   .starts = starts,
                   .drop = drop};
}

/* The first key that token t of a head sees. */
static int64 first_key(const shape *s, int64 head, int64 t) {
    return s->starts ? s->starts[head / s->heads * s->time + t] : 0;
}

/* Offset of a head (0 to B H - 1) in y; of its queries, keys or values in qkv. */
static int64 in_y(const shape *s, int64 head) {
    return head / s->heads * s->time * s->y_stride + head % s->heads * s->width;
}

enum { QUERIES, KEYS, VALUES };

static int64 in_qkv(const shape *s, int64 head, int64 kind) {
    int64 of_head = head % s->heads, shared = of_head / (s->heads / s->kv_heads);
    int64 row = kind == QUERIES ? of_head : s->heads + (kind - KEYS) * s->kv_heads + shared;
    return head / s->heads * s->time * s->qkv_stride + row * s->width;
}

/* One head as an operand: lanes are tokens and depth is D, or lanes are D and depth is tokens. */
static matrix by_token(const shape *s, const real *data, int64 stride) {
    return (matrix){.data = data, .stride = stride, .lanes = s->time, .depth = s->width};
}

static matrix by_width(const shape *s, const real *data, int64 stride) {
    return (matrix){
        .data = data, .stride = stride, .lanes = s->width, .depth = s->time, .by_depth = 1};
}

/* Cut the next `blocks` blocks off a thread's scratch memory. */
static real *carve(real **scratch, int64 blocks) {
    real *start = *scratch;
    *scratch += blocks * BLOCK;
    return start;
}

static void pack_head(matrix from, real *to) {
    int64 depth_blocks = n_blocks(from.depth), column_blocks = n_blocks(from.lanes);
    for (int64 b = 0; b < (from.by_depth ? depth_blocks : column_blocks); b++)
        if (from.by_depth)
            pack_right(&from, b * DEPTH, 0, column_blocks, to + b * BLOCK, depth_blocks * BLOCK);
        else
            pack_right(&from, b * LANES, 0, depth_blocks, to + b * depth_blocks * BLOCK, BLOCK);
}

/* Scores of 32 queries with the keys of the first `blocks` blocks. */
static void multiply_by_keys(const shape *s, view left, const real *right, int64 blocks,
                             float *out) {
    for (int64 c = 0; c < blocks; c++)
        multiply(left, right + c * s->depth_blocks * BLOCK, s->depth_blocks, out + c * LANES,
                 s->stride, 0);
}

/* Those of 16 keys that a query sees: from `start` on, and the first `n_keys`. */
INLINE __mmask16 seen(int64 start, int64 n_keys) {
    return (__mmask16)(mask_of(n_keys) & ~mask_of(start));
}

/* 2^(score * factor - offset) for 16 keys; 0 for those that the query does not see. */
INLINE __m512 exp_16(const float *scores, float factor, float offset, int64 start, int64 n_keys) {
    __m512 x =
        _mm512_fmsub_ps(_mm512_load_ps(scores), _mm512_set1_ps(factor), _mm512_set1_ps(offset));
    return _mm512_maskz_mov_ps(seen(start, n_keys), power_of_two(x));
}

INLINE pair exp_pair(const float *scores, float factor, float offset, int64 start, int64 n_keys) {
    return (pair){exp_16(scores, factor, offset, start, n_keys),
                  exp_16(scores + 16, factor, offset, start - 16, n_keys - 16)};
}

/* The factors of dropout for keys c to c + 31 of row n; c is a multiple of 32 and grows from 0, and
`factors` holds those of the latest DROPOUT_COLUMNS keys. */
INLINE pair factors_of(const shape *s, int64 n, int64 c, float *factors) {
    if (c % DROPOUT_COLUMNS == 0) dropout_factors(s->drop, n, c / DROPOUT_COLUMNS, factors);
    return load_floats(factors + c % DROPOUT_COLUMNS, 32);
}

/* exps = e^((score - largest score) / sqrt(D)) for row n, a query that sees the keys from `start` to
`n_keys`, written in the layout of pack_left after dropout. Returns their sum before dropout;
*log_sum = log2 of the sum of e^(score / sqrt(D)). */
static float exp_row(const shape *s, const float *row, float factor, int64 n, int64 start,
                     int64 n_keys, int64 keys, real *exps, float *log_sum) {
    float factors[DROPOUT_COLUMNS];
    __m512 max_value = _mm512_set1_ps(-INFINITY);
    pair sum = broadcast(0);
    for (int64 c = 0; c < n_keys; c += 16)
        max_value = _mm512_mask_max_ps(max_value, seen(start - c, n_keys - c), max_value,
                                       _mm512_load_ps(row + c));
    float row_max = _mm512_reduce_max_ps(max_value) * factor;
    for (int64 c = 0; c < keys; c += DEPTH, exps += BLOCK) {
        pair e = exp_pair(row + c, factor, row_max, start - c, n_keys - c);
        sum = add_pair(sum, e);
        if (s->drop.threshold) e = mul_pair(e, factors_of(s, n, c, factors));
        store_reals(exps, e, DEPTH);
    }
    float total = sum_of(sum);
    *log_sum = row_max + log2f(total);
    return total;
}

static void attend_head(const shape *s, const real *qkv, real *y, float *logs, int64 head,
                        real *scratch) {
    real *keys = carve(&scratch, s->time_blocks * s->depth_blocks),
         *values = carve(&scratch, s->time_blocks * s->depth_blocks);
    real *queries = carve(&scratch, s->depth_blocks), *exps = carve(&scratch, s->time_blocks);
    float *scores = (float *)carve(&scratch, 2 * s->time_blocks);
    float totals[LANES], sums[LANES * LANES] __attribute__((aligned(64)));
    float factor = LOG2_E / sqrtf(s->width);
    matrix q = by_token(s, qkv + in_qkv(s, head, QUERIES), s->qkv_stride);
    pack_head(by_token(s, qkv + in_qkv(s, head, KEYS), s->qkv_stride), keys);
    pack_head(by_width(s, qkv + in_qkv(s, head, VALUES), s->qkv_stride), values);
    for (int64 i = 0; i < s->time_blocks; i++) {
        int64 first = i * LANES, height = min(LANES, s->time - first);
        pack_left(&q, first, 0, s->depth_blocks, queries, BLOCK);
        multiply_by_keys(s, packed_view(queries), keys, i + 1, scores);
        for (int64 r = 0; r < height; r++) {
            int64 t = first + r, n = head * s->time + t;
            totals[r] = exp_row(s, scores + r * s->stride, factor, n, first_key(s, head, t), t + 1,
                                first + LANES, exps + r * DEPTH, logs + n);
        }
        for (int64 d = 0; d < s->depth_blocks; d++) {
            real *out = y + in_y(s, head) + first * s->y_stride + d * LANES;
            prefetch(out, sizeof(real), 0, s->y_stride, _MM_HINT_ET0);
            multiply(packed_view(exps), values + d * s->time_blocks * BLOCK, i + 1, sums, LANES, 0);
            for (int64 r = 0; r < height; r++)
                store_reals(
                    out + r * s->y_stride,
                    mul_pair(load_floats(sums + r * LANES, LANES), broadcast(1 / totals[r])),
                    s->width - d * LANES);
        }
    }
}

/* `logs` (B, H, T) holds *log_sum of `exp_row` for each query. With `starts` (B, T), not NULL, token t
sees no key before starts[t]: documents are kept apart. */
int attend(const real *qkv, real *y, float *logs, const int64 *starts, int64 key, int64 stream,
           int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads, int64 width,
           int threads) {
    dropout drop = {key, stream, threshold};
    shape s = shape_of(batch, time, heads, kv_heads, width, starts, drop);
    int64 own_blocks = 2 * s.time_blocks * s.depth_blocks + s.depth_blocks + 3 * s.time_blocks;
    real *scratch = alloc_blocks(threads * own_blocks);
    if (!scratch) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64 head = 0; head < batch * heads; head++)
            attend_head(&s, qkv, y, logs, head,
                        scratch + omp_get_thread_num() * own_blocks * BLOCK);
        end_tiles(before);
    }
    free(scratch);
    return 0;
}

/* Replace one row of scores by its probabilities, and compute the gradient of the scores from d_p,
that of the probabilities. The mean of d_p uses these same probabilities, not y, so that the
gradients of a row sum to 0. With dropout, d_p is the gradient of the dropped probabilities, and p
receives these. */
static void gradient_of_row(const shape *s, float *row, float *d_p, float factor, float log_sum,
                            int64 n, int64 start, int64 n_keys, int64 keys, real *p,
                            real *d_scores) {
    float factors[DROPOUT_COLUMNS];
    pair scale = broadcast(factor / LOG2_E), sum = broadcast(0);
    for (int64 c = 0; c < keys; c += DEPTH) {
        pair probability = exp_pair(row + c, factor, log_sum, start - c, n_keys - c);
        pair dropped = probability, gradient = load_floats(d_p + c, DEPTH);
        if (s->drop.threshold) {
            pair by = factors_of(s, n, c, factors);
            dropped = mul_pair(probability, by);
            gradient = mul_pair(gradient, by);
            store_floats(d_p + c, gradient, DEPTH);
        }
        sum = add_pair(sum, mul_pair(probability, gradient));
        store_floats(row + c, probability, DEPTH);
        store_reals(p + c, dropped, DEPTH);
    }
    pair offset = broadcast(-sum_of(sum));
    for (int64 c = 0; c < keys; c += DEPTH) {
        pair centred = add_pair(load_floats(d_p + c, DEPTH), offset);
        store_reals(d_scores + c, mul_pair(mul_pair(load_floats(row + c, DEPTH), centred), scale),
                    DEPTH);
    }
}

/* Write a block of gradients, tokens from `first` on, to d_qkv; add it to the sums over tokens. */
static void place(const shape *s, const float *block, int64 head, int64 kind, int64 first,
                  int64 column, real *d_qkv, float *sums_of_tokens) {
    real *out = d_qkv + in_qkv(s, head, kind) + first * s->qkv_stride + column;
    float *sums = sums_of_tokens + head / s->heads * s->qkv_stride + column;
    sums += in_qkv(s, head % s->heads, kind);
    int64 n_valid = s->width - column;
    pair total = load_floats(sums, n_valid);
    for (int64 r = 0; r < min(LANES, s->time - first); r++) {
        pair row = load_floats(block + r * LANES, LANES);
        total = add_pair(total, row);
        store_reals(out + r * s->qkv_stride, row, n_valid);
    }
    store_floats(sums, total, n_valid);
}

/* out (T, D), in blocks, += transposed(of_queries) times right, for one span of queries: the
gradient of values if of_queries are probabilities, of keys if they are gradients of scores. Keys of
this span are set instead, unless another head of the group has already set them. */
static void add_to_keys(const shape *s, const real *of_queries, const real *right, int64 first,
                        int64 n_queries, int is_first, real *packed, float *out) {
    matrix left = {.data = of_queries,
                   .stride = s->stride,
                   .lanes = s->stride,
                   .depth = n_queries * DEPTH,
                   .by_depth = 1};
    for (int64 j = 0; j < first + n_queries; j++) {
        int64 before = j > first ? j - first : 0; /* blocks of queries that do not see these keys */
        for (int64 b = before; b < n_queries; b++)
            pack_left(&left, b * DEPTH, j * LANES, 1, packed + (b - before) * BLOCK, BLOCK);
        for (int64 c = 0; c < s->depth_blocks; c++)
            multiply(packed_view(packed), right + (c * SPAN + before) * BLOCK, n_queries - before,
                     out + (j * s->depth_blocks + c) * LANES * LANES, LANES,
                     j < first || !is_first);
    }
}

/* The heads that share head `group` (0 to B G - 1) of keys and values, one after another. */
static void attend_group_backward(const shape *s, const real *qkv, const real *d_y,
                                  const float *logs, real *d_qkv, float *sums_of_tokens,
                                  int64 group, real *scratch) {
    int64 n_heads = s->heads / s->kv_heads, first_head = group * n_heads;
    int64 whole = s->time_blocks * s->depth_blocks;
    real *keys = carve(&scratch, whole), *keys_by_width = carve(&scratch, whole);
    real *values = carve(&scratch, whole),
         *left = carve(&scratch, s->depth_blocks + s->time_blocks + SPAN);
    real *queries_by_width = carve(&scratch, SPAN * s->depth_blocks),
         *d_by_width = carve(&scratch, SPAN * s->depth_blocks);
    real *p = carve(&scratch, SPAN * s->time_blocks),
         *d_scores = carve(&scratch, SPAN * s->time_blocks);
    float *scores = (float *)carve(&scratch, 2 * s->time_blocks),
          *d_p = (float *)carve(&scratch, 2 * s->time_blocks);
    float *d_keys = (float *)carve(&scratch, 2 * whole),
          *d_values = (float *)carve(&scratch, 2 * whole);
    float factor = LOG2_E / sqrtf(s->width), sums[LANES * LANES] __attribute__((aligned(64)));

    const real *k = qkv + in_qkv(s, first_head, KEYS);
    pack_head(by_token(s, k, s->qkv_stride), keys);
    pack_head(by_width(s, k, s->qkv_stride), keys_by_width);
    pack_head(by_token(s, qkv + in_qkv(s, first_head, VALUES), s->qkv_stride), values);
    for (int64 head = first_head; head < first_head + n_heads; head++) {
        const real *q = qkv + in_qkv(s, head, QUERIES), *d_of_head = d_y + in_y(s, head);
        matrix queries = by_token(s, q, s->qkv_stride), d = by_token(s, d_of_head, s->y_stride);
        matrix q_by_width = by_width(s, q, s->qkv_stride);
        matrix d_y_by_width = by_width(s, d_of_head, s->y_stride);
        int is_first = head == first_head;
        for (int64 first = 0; first < s->time_blocks; first += SPAN) {
            int64 n_queries = min(SPAN, s->time_blocks - first);
            for (int64 i = first; i < first + n_queries; i++) {
                pack_left(&queries, i * LANES, 0, s->depth_blocks, left, BLOCK);
                multiply_by_keys(s, packed_view(left), keys, i + 1, scores);
                pack_left(&d, i * LANES, 0, s->depth_blocks, left, BLOCK);
                multiply_by_keys(s, packed_view(left), values, i + 1, d_p);
                int64 from = (i - first) * LANES * s->stride;
                for (int64 r = 0; r < LANES; r++) {
                    int64 t = i * LANES + r, at = from + r * s->stride;
                    int is_there = t < s->time;
                    int64 n = head * s->time + t;
                    gradient_of_row(s, scores + r * s->stride, d_p + r * s->stride, factor,
                                    is_there ? logs[n] : 0, n, is_there ? first_key(s, head, t) : 0,
                                    is_there ? t + 1 : 0, (i + 1) * LANES, p + at, d_scores + at);
                }
                matrix rows = {.data = d_scores + from,
                               .stride = s->stride,
                               .lanes = LANES,
                               .depth = (i + 1) * LANES};
                pack_left(&rows, 0, 0, i + 1, left, BLOCK);
                for (int64 c = 0; c < s->depth_blocks; c++) {
                    multiply(packed_view(left), keys_by_width + c * s->time_blocks * BLOCK, i + 1, sums,
                             LANES, 0);
                    place(s, sums, head, QUERIES, i * LANES, c * LANES, d_qkv, sums_of_tokens);
                }
            }
            for (int64 b = 0; b < n_queries; b++) {
                int64 row = (first + b) * DEPTH, at = b * BLOCK, step = SPAN * BLOCK;
                pack_right(&q_by_width, row, 0, s->depth_blocks, queries_by_width + at, step);
                pack_right(&d_y_by_width, row, 0, s->depth_blocks, d_by_width + at, step);
            }
            add_to_keys(s, d_scores, queries_by_width, first, n_queries, is_first, left, d_keys);
            add_to_keys(s, p, d_by_width, first, n_queries, is_first, left, d_values);
        }
    }
    for (int64 j = 0; j < s->time_blocks; j++)
        for (int64 c = 0; c < s->depth_blocks; c++) {
            int64 at = (j * s->depth_blocks + c) * LANES * LANES;
            place(s, d_keys + at, first_head, KEYS, j * LANES, c * LANES, d_qkv, sums_of_tokens);
            place(s, d_values + at, first_head, VALUES, j * LANES, c * LANES, d_qkv, sums_of_tokens);
        }
}

/* d_qkv, and its sums over all tokens, from the gradient of y. */
int attend_backward(const real *qkv, const real *d_y, const float *logs, real *d_qkv,
                    float *column_sums, const int64 *starts, int64 key, int64 stream,
                    int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads,
                    int64 width, int threads) {
    dropout drop = {key, stream, threshold};
    shape s = shape_of(batch, time, heads, kv_heads, width, starts, drop);
    int64 own_blocks = 7 * s.time_blocks * s.depth_blocks + s.depth_blocks + s.time_blocks + SPAN +
                       2 * SPAN * s.depth_blocks + 2 * SPAN * s.time_blocks + 4 * s.time_blocks;
    real *scratch = alloc_blocks(threads * own_blocks);
    float *sums_of_tokens = calloc(batch * s.qkv_stride, sizeof(float));
    int failure = scratch && sums_of_tokens ? 0 : NO_MEMORY;
    if (!failure) {
#pragma omp parallel num_threads(threads)
        {
            tiles before = begin_tiles();
#pragma omp for schedule(dynamic)
            for (int64 group = 0; group < batch * kv_heads; group++)
                attend_group_backward(&s, qkv, d_y, logs, d_qkv, sums_of_tokens, group,
                                      scratch + omp_get_thread_num() * own_blocks * BLOCK);
            end_tiles(before);
        }
        sum_rows(sums_of_tokens, column_sums, batch, s.qkv_stride);
    }
    free(sums_of_tokens);
    free(scratch);
    return failure;
}

#endif
