/* What formulas.py says, each in one pass over memory.

Compiled by build.py where a run begins, for one type of activations, `real`: bfloat16 with
-DBFLOAT16, else float.  All arrays are contiguous unless a stride says otherwise.  A thread takes the
rows that its number gives it, so the same number of threads gives the same bits.

N rows, C columns; B batch, T time, H heads, D width of a head. */

#include "common.h"

int add(const real *update, const float *bias, const float *x, float *sum, count rows, count width,
        int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < rows; n++)
        add_row(update + n * width, bias, x + n * width, sum + n * width, width);
    return 0;
}

int norm(const float *x, const float *gain, const float *shift, float eps, real *normed,
         float *mean, float *rstd, count rows, count width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < rows; n++)
        norm_row(x + n * width, gain, shift, eps, normed + n * width, mean + n, rstd + n, width);
    return 0;
}

int add_and_norm(const real *update, const float *bias, const float *x, const float *gain,
                 const float *shift, float eps, float *sum, real *normed, float *mean, float *rstd,
                 count rows, count width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < rows; n++) {
        float *row = sum + n * width;
        add_row(update + n * width, bias, x + n * width, row, width);
        norm_row(row, gain, shift, eps, normed + n * width, mean + n, rstd + n, width);
    }
    return 0;
}

/* Sums over rows. Each thread has a total and, behind it, the sum of its latest rows, which is folded
into the total after ROWS_TOGETHER of them. */
static float *sums_of_threads(count columns, int threads) {
    return calloc(2 * (size_t)columns * threads, sizeof(float));
}

static inline void fold(float *restrict total, count columns) {
    float *restrict latest = total + columns;
    for (count c = 0; c < columns; c++) {
        total[c] += latest[c];
        latest[c] = 0;
    }
}

/* Into `out` what all threads have, in their order. */
static void finish_sums(float *sums, float *restrict out, count columns, int threads) {
    memset(out, 0, columns * sizeof(float));
    for (int k = 0; k < threads; k++) {
        float *restrict total = sums + 2 * k * columns;
        fold(total, columns);
        for (count c = 0; c < columns; c++) out[c] += total[c];
    }
    free(sums);
}

/* The rows of thread k: first_row(k) to first_row(k + 1). */
static inline count first_row(count rows, int k, int threads) { return rows * k / threads; }

/* `rounded` may be NULL. */
int round_and_sum(const float *x, real *rounded, float *column_sums, count rows, count width,
                  int threads) {
    float *sums = sums_of_threads(width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 2 * k * width, *restrict latest = total + width;
        for (count n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_TOGETHER == 0) fold(total, width);
            const float *restrict row = x + n * width;
#pragma omp simd
            for (count c = 0; c < width; c++) latest[c] += row[c];
            if (!rounded) continue;
            real *restrict out = rounded + n * width;
#pragma omp simd
            for (count c = 0; c < width; c++) out[c] = store(row[c]);
        }
    }
    finish_sums(sums, column_sums, width, threads);
    return 0;
}

/* d_x is the gradient through the norm plus `residual`; `column_sums` are two rows, the gradients of
gain and shift. */
int norm_backward(const real *d_normed, const float *x, const float *mean, const float *rstd,
                  const float *gain, const float *residual, float *d_x, float *column_sums,
                  count rows, count width, int threads) {
    float *sums = sums_of_threads(2 * width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 4 * k * width;
        for (count n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_TOGETHER == 0) fold(total, 2 * width);
            norm_backward_row(d_normed + n * width, x + n * width, mean[n], rstd[n], gain,
                              residual + n * width, d_x + n * width, total + 2 * width, width);
        }
    }
    finish_sums(sums, column_sums, 2 * width, threads);
    return 0;
}

/* x becomes the slope. */
int gelu(real *x, const float *bias, real *y, count rows, count width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < rows; n++) {
        real *restrict row = x + n * width, *restrict out = y + n * width;
#pragma omp simd
        for (count c = 0; c < width; c++) {
            float value, slope;
            gelu_of(load(row[c]) + bias[c], &value, &slope);
            out[c] = store(value);
            row[c] = store(slope);
        }
    }
    return 0;
}

/* d becomes d times slope; its sums over rows are those of the products before they are rounded. */
int gelu_backward(real *d, const real *slope, float *column_sums, count rows, count width,
                  int threads) {
    float *sums = sums_of_threads(width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 2 * k * width, *restrict latest = total + width;
        for (count n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_TOGETHER == 0) fold(total, width);
            real *restrict row = d + n * width;
            const real *restrict by = slope + n * width;
#pragma omp simd
            for (count c = 0; c < width; c++) {
                float product = load(row[c]) * load(by[c]);
                latest[c] += product;
                row[c] = store(product);
            }
        }
    }
    finish_sums(sums, column_sums, width, threads);
    return 0;
}

/* qkv (B, T, 3, H, D) plus bias (3, H, D) to heads (3, B, H, T, D), the queries times `scale`. */
int split_heads(const real *qkv, const float *bias, real *heads, float scale, count batch,
                count time, count n_head, count d_head, int threads) {
    count width = n_head * d_head;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < batch * time; n++) {
        real *of_token = heads + (n / time * n_head * time + n % time) * d_head;
        for (count i = 0; i < 3 * n_head; i++) {
            const real *restrict in = qkv + n * 3 * width + i * d_head;
            const float *restrict more = bias + i * d_head;
            real *restrict out =
                of_token + i / n_head * batch * time * width + i % n_head * time * d_head;
            float factor = i < n_head ? scale : 1;
#pragma omp simd
            for (count d = 0; d < d_head; d++) out[d] = store((load(in[d]) + more[d]) * factor);
        }
    }
    return 0;
}

/* heads (B, H, T, D) times `scale` to tokens (B, T, H, D), of which H and D are contiguous; added
to what is there if `adds`. */
int merge_heads(const real *heads, real *tokens, float scale, int adds, count batch, count time,
                count n_head, count d_head, count batch_stride, count time_stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count i = 0; i < batch * n_head; i++) {
        real *of_head = tokens + i / n_head * batch_stride + i % n_head * d_head;
        for (count t = 0; t < time; t++) {
            const real *restrict in = heads + (i * time + t) * d_head;
            real *restrict out = of_head + t * time_stride;
            if (adds) {
#pragma omp simd
                for (count d = 0; d < d_head; d++) out[d] = store(load(out[d]) + load(in[d]) * scale);
            } else {
#pragma omp simd
                for (count d = 0; d < d_head; d++) out[d] = store(load(in[d]) * scale);
            }
        }
    }
    return 0;
}

/* e^(x - the largest x) into `powers`; their sum. */
static inline float powers_of_row(const real *restrict x, float *restrict powers, count width,
                                  float *largest) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (count c = 0; c < width; c++) most = load(x[c]) > most ? load(x[c]) : most;
#pragma omp simd reduction(+ : sum)
    for (count c = 0; c < width; c++) {
        powers[c] = exponential(load(x[c]) - most);
        sum += powers[c];
    }
    *largest = most;
    return sum;
}

/* Keys to look at beside `seen` of them, so that they fill whole vectors. */
static inline count whole_vectors(count seen, count keys) {
    count whole = (seen + 31) / 32 * 32;
    return whole < keys ? whole : keys;
}

/* Scores (M, queries, keys) become probabilities: the last query sees all keys, the one before it
all but the last, and so on. */
int causal_softmax(real *scores, count matrices, count queries, count keys, int threads) {
    float *scratch = malloc((size_t)keys * threads * sizeof(float));
    if (!scratch) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *restrict powers = scratch + k * keys;
        for (count m = first_row(matrices, k, threads); m < first_row(matrices, k + 1, threads); m++)
            for (count q = 0; q < queries; q++) {
                real *restrict row = scores + (m * queries + q) * keys;
                count seen = keys - queries + q + 1;
                count looked_at = whole_vectors(seen, keys);
                for (count c = seen; c < looked_at; c++) row[c] = store(-INFINITY);
                float largest, part = 1 / powers_of_row(row, powers, looked_at, &largest);
#pragma omp simd
                for (count c = 0; c < looked_at; c++) row[c] = store(powers[c] * part);
                memset(row + seen, 0, (keys - seen) * sizeof(real));
            }
    }
    free(scratch);
    return 0;
}

/* d, the gradient of probabilities p, becomes that of the scores. */
int causal_softmax_backward(real *d, const real *p, count matrices, count queries, count keys,
                            int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count m = 0; m < matrices; m++)
        for (count q = 0; q < queries; q++) {
            real *restrict row = d + (m * queries + q) * keys;
            const real *restrict of = p + (m * queries + q) * keys;
            count seen = keys - queries + q + 1;
            count looked_at = whole_vectors(seen, keys); /* probabilities of the rest are 0 */
            float mean = 0; /* of the gradient, by probability */
#pragma omp simd reduction(+ : mean)
            for (count c = 0; c < looked_at; c++) mean += load(row[c]) * load(of[c]);
#pragma omp simd
            for (count c = 0; c < looked_at; c++) row[c] = store(load(of[c]) * (load(row[c]) - mean));
            memset(row + seen, 0, (keys - seen) * sizeof(real));
        }
    return 0;
}

/* nats (N) of the targets under logits (N, V); with `scale` the logits become the gradient of their
sum times scale, with 0 they stay. */
int cross_entropy(real *logits, const int64_t *targets, float *nats, float scale, count rows,
                  count width, int threads) {
    for (count n = 0; n < rows; n++)
        if (targets[n] < 0 || targets[n] >= width) return OUTSIDE;
    float *scratch = malloc((size_t)width * threads * sizeof(float));
    if (!scratch) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *restrict powers = scratch + k * width;
        for (count n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            real *restrict row = logits + n * width;
            float largest, sum = powers_of_row(row, powers, width, &largest);
            nats[n] = logf(sum) - (load(row[targets[n]]) - largest);
            if (scale == 0) continue;
            powers[targets[n]] -= sum;
#pragma omp simd
            for (count c = 0; c < width; c++) row[c] = store(powers[c] / sum * scale);
        }
    }
    free(scratch);
    return 0;
}
