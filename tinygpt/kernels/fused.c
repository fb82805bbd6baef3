/* What formulas.py says, each in one pass over memory.

Compiled by build.py where a run begins, for one type of activations, `real`: bfloat16 with
-DBFLOAT16, else float.  All arrays are contiguous unless a stride says otherwise.  A thread takes the
rows that its number gives it, so the same number of threads gives the same bits.

N rows, C columns; B batch, T time, H heads, D width of a head. */

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
into the total now and then: a single running total would swallow what is added late. */
enum { ROWS_TOGETHER = 128 };

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
        float *restrict d_gain = total + 2 * width, *restrict d_shift = d_gain + width;
        for (count n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_TOGETHER == 0) fold(total, 2 * width);
            const real *restrict d = d_normed + n * width;
            const float *restrict row = x + n * width, *restrict more = residual + n * width;
            float *restrict out = d_x + n * width;
            float sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
            for (count c = 0; c < width; c++) {
                float unit = (row[c] - mean[n]) * rstd[n], d_unit = load(d[c]) * gain[c];
                sum += d_unit;
                along += d_unit * unit;
                d_gain[c] += load(d[c]) * unit;
                d_shift[c] += load(d[c]);
            }
            sum /= width;
            along /= width;
#pragma omp simd
            for (count c = 0; c < width; c++) {
                float unit = (row[c] - mean[n]) * rstd[n];
                out[c] = (load(d[c]) * gain[c] - sum - unit * along) * rstd[n] + more[c];
            }
        }
    }
    finish_sums(sums, column_sums, 2 * width, threads);
    return 0;
}

/* x becomes the slope. */
int gelu(real *x, const float *bias, real *y, count rows, count width, int threads) {
    const float scale = 1.5957691216f, cubic = 0.044715f * scale; /* scale: 2 sqrt(2 / pi) */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (count n = 0; n < rows; n++) {
        real *restrict row = x + n * width, *restrict out = y + n * width;
#pragma omp simd
        for (count c = 0; c < width; c++) {
            float v = load(row[c]) + bias[c], bent = cubic * v * v;
            float gate = 1 / (1 + exponential(-v * (scale + bent))), gated = v * gate;
            out[c] = store(gated);
            row[c] = store(gate + (gated - gated * gate) * (scale + 3 * bent));
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
