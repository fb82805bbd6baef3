/* Causal attention, a head at a time, whose scores never leave the caches.

After Dao 2023, "FlashAttention-2" (arXiv 2307.08691): of the probabilities only the logarithm of each
row's sum is kept, and the backward makes them again.  Heads stay where linear layers have them: qkv
and its gradients are (B, T, 3, H, D), y and its gradient (B, T, H, D). */

#include "blocks.h"

#ifdef __AVX512BF16__
#include <omp.h>

enum { SPAN = 8 }; /* blocks of queries whose probabilities the backward has at a time */

/* Sizes, and what follows: blocks of T and of D, numbers of a token and of all keys of a query. */
typedef struct {
    count batch, time, heads, width, long_, deep, of_y, of_qkv, stride;
} shape;

static shape shape_of(count batch, count time, count heads, count width) {
    count long_ = blocks_of(time), of_y = heads * width;
    return (shape){batch, time, heads, width, long_, blocks_of(width), of_y, 3 * of_y, long_ * LANES};
}

/* What of a head begins here: of y, and of the queries, keys or values (kind 0 to 2) in qkv. */
static count in_y(const shape *s, count head) {
    return head / s->heads * s->time * s->of_y + head % s->heads * s->width;
}

static count in_qkv(const shape *s, count head, count kind) {
    return head / s->heads * s->time * s->of_qkv + (kind * s->heads + head % s->heads) * s->width;
}

/* A head's part of tokens as a matrix, whose lanes are tokens or else the numbers of each. */
static matrix by_token(const shape *s, const real *data, count stride) {
    return (matrix){.data = data, .stride = stride, .lanes = s->time, .depth = s->width};
}

static matrix by_width(const shape *s, const real *data, count stride) {
    return (matrix){
        .data = data, .stride = stride, .lanes = s->width, .depth = s->time, .by_depth = 1};
}

/* The next blocks of what a thread has for itself. */
static real *take(real **room, count blocks) {
    real *here = *room;
    *room += blocks * BLOCK;
    return here;
}

static void pack_head(matrix from, real *to) {
    count deep = blocks_of(from.depth), across = blocks_of(from.lanes);
    for (count b = 0; b < (from.by_depth ? deep : across); b++)
        if (from.by_depth)
            pack_right(&from, b * DEPTH, 0, across, to + b * BLOCK, deep * BLOCK);
        else
            pack_right(&from, b * LANES, 0, deep, to + b * deep * BLOCK, BLOCK);
}

/* For 32 queries and the keys of the first `blocks`, what is left times what is right: scores. */
static void multiply_by_keys(const shape *s, view left, const real *right, count blocks,
                             float *out) {
    for (count c = 0; c < blocks; c++)
        multiply(left, right + c * s->deep * BLOCK, s->deep, out + c * LANES, s->stride, 0);
}

/* 2^(score * factor - less) of 16 keys, of which the query has `seen` so many. */
INLINE __m512 powers_of_16(const float *scores, float factor, float less, count seen) {
    __m512 x = _mm512_fmsub_ps(_mm512_load_ps(scores), _mm512_set1_ps(factor), _mm512_set1_ps(less));
    return _mm512_maskz_mov_ps(first_of(seen), power_of_two(x));
}

INLINE pair powers_of(const float *scores, float factor, float less, count seen) {
    return (pair){powers_of_16(scores, factor, less, seen),
                  powers_of_16(scores + 16, factor, less, seen - 16)};
}

/* A row of scores to e^(score / sqrt(D)), divided by that of the largest, in block `r` of what
pack_left would make; their sum, and the logarithm to the base of 2 of what it is undivided. */
static float powers_of_row(const float *row, float factor, count seen, count keys, real *powers,
                           float *log_sum) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    pair sum = same(0);
    for (count c = 0; c < seen; c += 16)
        most = _mm512_mask_max_ps(most, first_of(seen - c), most, _mm512_load_ps(row + c));
    float largest = _mm512_reduce_max_ps(most) * factor;
    for (count c = 0; c < keys; c += DEPTH, powers += BLOCK) {
        pair power = powers_of(row + c, factor, largest, seen - c);
        sum = plus(sum, power);
        store_reals(powers, power, DEPTH);
    }
    float total = sum_of(sum);
    *log_sum = largest + log2f(total);
    return total;
}

static void attend_head(const shape *s, const real *qkv, real *y, float *logs, count head,
                        real *room) {
    real *keys = take(&room, s->long_ * s->deep), *values = take(&room, s->long_ * s->deep);
    real *queries = take(&room, s->deep), *powers = take(&room, s->long_);
    float *scores = (float *)take(&room, 2 * s->long_);
    float totals[LANES], sums[LANES * LANES] __attribute__((aligned(64)));
    float factor = LOG2_E / sqrtf(s->width);
    matrix q = by_token(s, qkv + in_qkv(s, head, 0), s->of_qkv);
    pack_head(by_token(s, qkv + in_qkv(s, head, 1), s->of_qkv), keys);
    pack_head(by_width(s, qkv + in_qkv(s, head, 2), s->of_qkv), values);
    for (count i = 0; i < s->long_; i++) {
        count first = i * LANES, height = least(LANES, s->time - first);
        pack_left(&q, first, 0, s->deep, queries, BLOCK);
        multiply_by_keys(s, in_blocks(queries), keys, i + 1, scores);
        for (count r = 0; r < height; r++)
            totals[r] = powers_of_row(scores + r * s->stride, factor, first + r + 1, first + LANES,
                                      powers + r * DEPTH, logs + head * s->time + first + r);
        for (count d = 0; d < s->deep; d++) {
            real *out = y + in_y(s, head) + first * s->of_y + d * LANES;
            fetch(out, sizeof(real), 0, s->of_y, _MM_HINT_ET0);
            multiply(in_blocks(powers), values + d * s->long_ * BLOCK, i + 1, sums, LANES, 0);
            for (count r = 0; r < height; r++)
                store_reals(out + r * s->of_y,
                            times(load_floats(sums + r * LANES, LANES), same(1 / totals[r])),
                            s->width - d * LANES);
        }
    }
}

/* `logs` (B, H, T) are what `powers_of_row` says. */
int attend(const real *qkv, real *y, float *logs, count batch, count time, count heads, count width,
           int threads) {
    shape s = shape_of(batch, time, heads, width);
    count own_blocks = 2 * s.long_ * s.deep + s.deep + 3 * s.long_;
    real *room = room_for(threads * own_blocks);
    if (!room) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
        tiles before = begin_tiles();
#pragma omp for schedule(dynamic)
        for (count head = 0; head < batch * heads; head++)
            attend_head(&s, qkv, y, logs, head,
                        room + omp_get_thread_num() * own_blocks * BLOCK);
        end_tiles(before);
    }
    free(room);
    return 0;
}

/* Probabilities of a row of scores, which takes their place, and the gradient of scores from that of
probabilities and its mean by them: the very ones, not those that made y, so that the sum is 0. */
static void gradient_of_row(float *row, const float *d_p, float factor, float log_sum, count seen,
                            count keys, real *p, real *d_scores) {
    pair scale = same(factor / LOG2_E), sum = same(0);
    for (count c = 0; c < keys; c += DEPTH) {
        pair probability = powers_of(row + c, factor, log_sum, seen - c);
        sum = plus(sum, times(probability, load_floats(d_p + c, DEPTH)));
        store_floats(row + c, probability, DEPTH);
        store_reals(p + c, probability, DEPTH);
    }
    pair less = same(-sum_of(sum));
    for (count c = 0; c < keys; c += DEPTH) {
        pair over_mean = plus(load_floats(d_p + c, DEPTH), less);
        store_reals(d_scores + c, times(times(load_floats(row + c, DEPTH), over_mean), scale), DEPTH);
    }
}

/* A block of gradients, tokens from `first` on, to its place in d_qkv and into the sums over tokens. */
static void place(const shape *s, const float *block, count head, count kind, count first,
                  count column, real *d_qkv, float *sums_of_tokens) {
    real *out = d_qkv + in_qkv(s, head, kind) + first * s->of_qkv + column;
    float *sums = sums_of_tokens + head / s->heads * s->of_qkv + column;
    sums += in_qkv(s, head % s->heads, kind);
    count there = s->width - column;
    pair total = load_floats(sums, there);
    for (count r = 0; r < least(LANES, s->time - first); r++) {
        pair row = load_floats(block + r * LANES, LANES);
        total = plus(total, row);
        store_reals(out + r * s->of_qkv, row, there);
    }
    store_floats(sums, total, there);
}

/* Adds to `out`, blocks of (T, D), what comes back to the keys from a span of queries: their p or
gradients of scores, transposed, times what is right. */
static void add_to_keys(const shape *s, const real *of_queries, const real *right, count first,
                        count here, real *packed, float *out) {
    matrix left = {.data = of_queries,
                   .stride = s->stride,
                   .lanes = s->stride,
                   .depth = here * DEPTH,
                   .by_depth = 1};
    for (count j = 0; j < first + here; j++) {
        count before = j > first ? j - first : 0; /* queries that do not see these keys */
        for (count b = before; b < here; b++)
            pack_left(&left, b * DEPTH, j * LANES, 1, packed + (b - before) * BLOCK, BLOCK);
        for (count c = 0; c < s->deep; c++)
            multiply(in_blocks(packed), right + (c * SPAN + before) * BLOCK, here - before,
                     out + (j * s->deep + c) * LANES * LANES, LANES, j < first);
    }
}

static void attend_head_backward(const shape *s, const real *qkv, const real *d_y,
                                 const float *logs, real *d_qkv, float *sums_of_tokens, count head,
                                 real *room) {
    count whole = s->long_ * s->deep;
    real *keys = take(&room, whole), *keys_by_width = take(&room, whole);
    real *values = take(&room, whole), *left = take(&room, s->deep + s->long_ + SPAN);
    real *queries_by_width = take(&room, SPAN * s->deep), *d_by_width = take(&room, SPAN * s->deep);
    real *p = take(&room, SPAN * s->long_), *d_scores = take(&room, SPAN * s->long_);
    float *scores = (float *)take(&room, 2 * s->long_), *d_p = (float *)take(&room, 2 * s->long_);
    float *d_keys = (float *)take(&room, 2 * whole), *d_values = (float *)take(&room, 2 * whole);
    float factor = LOG2_E / sqrtf(s->width), sums[LANES * LANES] __attribute__((aligned(64)));

    const real *q = qkv + in_qkv(s, head, 0), *k = qkv + in_qkv(s, head, 1);
    d_y += in_y(s, head);
    matrix queries = by_token(s, q, s->of_qkv), d = by_token(s, d_y, s->of_y);
    matrix q_by_width = by_width(s, q, s->of_qkv), d_y_by_width = by_width(s, d_y, s->of_y);
    pack_head(by_token(s, k, s->of_qkv), keys);
    pack_head(by_width(s, k, s->of_qkv), keys_by_width);
    pack_head(by_token(s, qkv + in_qkv(s, head, 2), s->of_qkv), values);
    for (count first = 0; first < s->long_; first += SPAN) {
        count here = least(SPAN, s->long_ - first);
        for (count i = first; i < first + here; i++) {
            pack_left(&queries, i * LANES, 0, s->deep, left, BLOCK);
            multiply_by_keys(s, in_blocks(left), keys, i + 1, scores);
            pack_left(&d, i * LANES, 0, s->deep, left, BLOCK);
            multiply_by_keys(s, in_blocks(left), values, i + 1, d_p);
            count from = (i - first) * LANES * s->stride;
            for (count r = 0; r < LANES; r++) {
                count t = i * LANES + r, at = from + r * s->stride;
                int is_there = t < s->time;
                gradient_of_row(scores + r * s->stride, d_p + r * s->stride, factor,
                                is_there ? logs[head * s->time + t] : 0, is_there ? t + 1 : 0,
                                (i + 1) * LANES, p + at, d_scores + at);
            }
            matrix rows = {.data = d_scores + from,
                           .stride = s->stride,
                           .lanes = LANES,
                           .depth = (i + 1) * LANES};
            pack_left(&rows, 0, 0, i + 1, left, BLOCK);
            for (count c = 0; c < s->deep; c++) {
                multiply(in_blocks(left), keys_by_width + c * s->long_ * BLOCK, i + 1, sums, LANES, 0);
                place(s, sums, head, 0, i * LANES, c * LANES, d_qkv, sums_of_tokens);
            }
        }
        for (count b = 0; b < here; b++) {
            count row = (first + b) * DEPTH, at = b * BLOCK, step = SPAN * BLOCK;
            pack_right(&q_by_width, row, 0, s->deep, queries_by_width + at, step);
            pack_right(&d_y_by_width, row, 0, s->deep, d_by_width + at, step);
        }
        add_to_keys(s, d_scores, queries_by_width, first, here, left, d_keys);
        add_to_keys(s, p, d_by_width, first, here, left, d_values);
    }
    for (count j = 0; j < s->long_; j++)
        for (count c = 0; c < s->deep; c++) {
            count at = (j * s->deep + c) * LANES * LANES;
            place(s, d_keys + at, head, 1, j * LANES, c * LANES, d_qkv, sums_of_tokens);
            place(s, d_values + at, head, 2, j * LANES, c * LANES, d_qkv, sums_of_tokens);
        }
}

/* Gradients of qkv, and their sums over all tokens, from that of y. */
int attend_backward(const real *qkv, const real *d_y, const float *logs, real *d_qkv,
                    float *column_sums, count batch, count time, count heads, count width,
                    int threads) {
    shape s = shape_of(batch, time, heads, width);
    count own_blocks = 7 * s.long_ * s.deep + s.deep + s.long_ + SPAN + 2 * SPAN * s.deep +
                       2 * SPAN * s.long_ + 4 * s.long_;
    real *room = room_for(threads * own_blocks);
    float *sums_of_tokens = calloc(batch * s.of_qkv, sizeof(float));
    int failure = room && sums_of_tokens ? 0 : NO_MEMORY;
    if (!failure) {
#pragma omp parallel num_threads(threads)
        {
            tiles before = begin_tiles();
#pragma omp for schedule(dynamic)
            for (count head = 0; head < batch * heads; head++)
                attend_head_backward(&s, qkv, d_y, logs, d_qkv, sums_of_tokens, head,
                                     room + omp_get_thread_num() * own_blocks * BLOCK);
            end_tiles(before);
        }
        add_up(sums_of_tokens, column_sums, batch, s.of_qkv);
    }
    free(sums_of_tokens);
    free(room);
    return failure;
}

#endif
