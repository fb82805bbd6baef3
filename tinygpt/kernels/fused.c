/* The operations of formulas.py, each in one pass over memory.

build.py compiles this file at the start of a run for one type of activations, `real`: bfloat16 with
-DBFLOAT16, else float.  Arrays are contiguous unless a stride is passed.  Rows are divided among
threads by thread number, so the same number of threads gives the same bits.

N rows, C columns; B batch, T time, H heads, D width of a head. */

#include "kernels.h"

/* sum = x + (update + bias) for row n, the bracket times the factors of dropout. bias NULL: none. */
static inline void add_nth_row(const real *update, const float *bias, const float *x, float *sum,
                               int64 n, int64 width, dropout by) {
    update += n * width, x += n * width, sum += n * width;
    if (!by.threshold) {
        EITHER(bias, add_row(update, bias, x, sum, width));
        return;
    }
    float factors[DROPOUT_COLUMNS];
    for (int64 first = 0; first < width; first += DROPOUT_COLUMNS) {
        int64 end = width - first < DROPOUT_COLUMNS ? width - first : DROPOUT_COLUMNS;
        dropout_factors(by, n, first / DROPOUT_COLUMNS, factors);
#pragma omp simd
        for (int64 c = 0; c < end; c++)
            sum[first + c] =
                x[first + c] +
                (load(update[first + c]) + (bias ? bias[first + c] : 0)) * factors[c];
    }
}

int add(const real *update, const float *bias, const float *x, float *sum, int64 key, int64 stream,
        int64 threshold, int64 rows, int64 width, int threads) {
    dropout by = {key, stream, threshold};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) add_nth_row(update, bias, x, sum, n, width, by);
    return 0;
}

int norm(const float *x, const float *gain, const float *shift, float eps, int64 is_rms,
         real *normed, float *mean, float *rstd, int64 rows, int64 width, int threads) {
    norm_kind by = {gain, shift, eps, is_rms};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++)
        norm_row(x + n * width, by, normed + n * width, mean + n, rstd + n, width);
    return 0;
}

int add_and_norm(const real *update, const float *bias, const float *x, const float *gain,
                 const float *shift, float eps, int64 is_rms, float *sum, real *normed,
                 float *mean, float *rstd, int64 key, int64 stream, int64 threshold, int64 rows,
                 int64 width, int threads) {
    dropout drop = {key, stream, threshold};
    norm_kind by = {gain, shift, eps, is_rms};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        add_nth_row(update, bias, x, sum, n, width, drop);
        norm_row(sum + n * width, by, normed + n * width, mean + n, rstd + n, width);
    }
    return 0;
}

/* For sums over rows: each thread has a total of `columns` floats, followed by the sum of its
latest rows, which is added to the total after every ROWS_PER_SUM rows. NULL if there is no memory.
*/
static float *sums_of_threads(int64 columns, int threads) {
    return calloc(2 * (size_t)columns * threads, sizeof(float));
}

static inline void fold(float *restrict total, int64 columns) {
    float *restrict latest = total + columns;
    for (int64 c = 0; c < columns; c++) {
        total[c] += latest[c];
        latest[c] = 0;
    }
}

/* out = sum of the threads' totals, in thread order; frees them. */
static void finish_sums(float *sums, float *restrict out, int64 columns, int threads) {
    memset(out, 0, columns * sizeof(float));
    for (int k = 0; k < threads; k++) {
        float *restrict total = sums + 2 * k * columns;
        fold(total, columns);
        for (int64 c = 0; c < columns; c++) out[c] += total[c];
    }
    free(sums);
}

/* The rows of thread k: first_row(k) to first_row(k + 1). */
static inline int64 first_row(int64 rows, int k, int threads) { return rows * k / threads; }

static inline void drop_and_sum_row(const float *restrict row, real *restrict out,
                                    float *restrict sums, int64 n, int64 width, dropout by) {
    float factors[DROPOUT_COLUMNS];
    for (int64 first = 0; first < width; first += DROPOUT_COLUMNS) {
        int64 end = width - first < DROPOUT_COLUMNS ? width - first : DROPOUT_COLUMNS;
        dropout_factors(by, n, first / DROPOUT_COLUMNS, factors);
#pragma omp simd
        for (int64 c = 0; c < end; c++) {
            float value = row[first + c] * factors[c];
            sums[first + c] += value;
            out[first + c] = store(value);
        }
    }
}

/* rounded (NULL: not wanted) = x times the factors of dropout, and sums over its rows. */
int round_and_sum(const float *x, real *rounded, float *column_sums, int64 key, int64 stream,
                  int64 threshold, int64 rows, int64 width, int threads) {
    dropout by = {key, stream, threshold};
    float *sums = sums_of_threads(width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 2 * k * width, *restrict latest = total + width;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, width);
            const float *restrict row = x + n * width;
            if (threshold) {
                drop_and_sum_row(row, rounded + n * width, latest, n, width, by);
                continue;
            }
#pragma omp simd
            for (int64 c = 0; c < width; c++) latest[c] += row[c];
            if (!rounded) continue;
            real *restrict out = rounded + n * width;
#pragma omp simd
            for (int64 c = 0; c < width; c++) out[c] = store(row[c]);
        }
    }
    finish_sums(sums, column_sums, width, threads);
    return 0;
}

/* d_x = gradient through the norm plus `residual` (NULL: none); column_sums (2, C) = gradients of gain and
shift. */
int norm_backward(const real *d_normed, const float *x, const float *mean, const float *rstd,
                  const float *gain, int64 is_rms, const float *residual, float *d_x,
                  float *column_sums, int64 rows, int64 width, int threads) {
    norm_kind by = {.gain = gain, .is_rms = is_rms};
    float *sums = sums_of_threads(2 * width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 4 * k * width;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, 2 * width);
            norm_backward_row(d_normed + n * width, x + n * width, mean[n], rstd[n], by,
                              residual ? residual + n * width : NULL, d_x + n * width,
                              total + 2 * width, width);
        }
    }
    finish_sums(sums, column_sums, 2 * width, threads);
    return 0;
}

INLINE void gelu_row(real *restrict row, const float *restrict bias, real *restrict out,
                     int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++) {
        float value, slope;
        gelu_of(load(row[c]) + (bias ? bias[c] : 0), &value, &slope);
        out[c] = store(value);
        row[c] = store(slope);
    }
}

/* y = GELU(x + bias); x is overwritten with the slope. bias NULL: none. */
int gelu(real *x, const float *bias, real *y, int64 rows, int64 width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        const float *of = bias;
        EITHER(of, gelu_row(x + n * width, of, y + n * width, width));
    }
    return 0;
}

INLINE void relu2_row(real *restrict row, const float *restrict bias, real *restrict out,
                      int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++) {
        float value, slope;
        relu2_of(load(row[c]) + (bias ? bias[c] : 0), &value, &slope);
        out[c] = store(value);
        row[c] = store(slope);
    }
}

/* The same with ReLU squared. */
int relu2(real *x, const float *bias, real *y, int64 rows, int64 width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        const float *of = bias;
        EITHER(of, relu2_row(x + n * width, of, y + n * width, width));
    }
    return 0;
}

INLINE void swiglu_row(real *restrict gate, const float *restrict gate_bias, real *restrict up,
                       const float *restrict up_bias, real *restrict out, int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++) {
        float value, slope, factor = load(up[c]) + (up_bias ? up_bias[c] : 0);
        silu_of(load(gate[c]) + (gate_bias ? gate_bias[c] : 0), &value, &slope);
        out[c] = store(value * factor);
        gate[c] = store(slope * factor);
        up[c] = store(value);
    }
}

/* y = SiLU(gate + gate_bias) * (up + up_bias); gate and up are overwritten with the derivatives of y
with respect to them. Biases may be NULL. */
int swiglu(real *gate, const float *gate_bias, real *up, const float *up_bias, real *y, int64 rows,
           int64 width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        const float *of_gate = gate_bias, *of_up = up_bias;
        int64 i = n * width;
        EITHER(of_gate,
               EITHER(of_up, swiglu_row(gate + i, of_gate, up + i, of_up, y + i, width)));
    }
    return 0;
}

/* d *= slope; column_sums = sums over rows of the products before rounding. */
int slope_backward(real *d, const real *slope, float *column_sums, int64 rows, int64 width,
                   int threads) {
    float *sums = sums_of_threads(width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 2 * k * width, *restrict latest = total + width;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, width);
            real *restrict row = d + n * width;
            const real *restrict by = slope + n * width;
#pragma omp simd
            for (int64 c = 0; c < width; c++) {
                float product = load(row[c]) * load(by[c]);
                latest[c] += product;
                row[c] = store(product);
            }
        }
    }
    finish_sums(sums, column_sums, width, threads);
    return 0;
}

/* The same with two slopes: d *= slope, other = d * other_slope; column_sums (2, C). */
int slopes_backward(real *d, const real *slope, const real *other_slope, real *other,
                    float *column_sums, int64 rows, int64 width, int threads) {
    float *sums = sums_of_threads(2 * width, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 4 * k * width;
        float *restrict latest = total + 2 * width, *restrict other_latest = latest + width;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, 2 * width);
            real *restrict row = d + n * width, *restrict other_row = other + n * width;
            const real *restrict by = slope + n * width, *restrict other_by = other_slope + n * width;
#pragma omp simd
            for (int64 c = 0; c < width; c++) {
                float product = load(row[c]) * load(by[c]);
                float other_product = load(row[c]) * load(other_by[c]);
                latest[c] += product;
                other_latest[c] += other_product;
                row[c] = store(product);
                other_row[c] = store(other_product);
            }
        }
    }
    finish_sums(sums, column_sums, 2 * width, threads);
    return 0;
}

/* The norm of a head, in place. */
INLINE void scale_head(float *restrict x, float mean, float rstd, const float *restrict gain,
                       const float *restrict shift, int64 width) {
#pragma omp simd
    for (int64 c = 0; c < width; c++)
        x[c] = (x[c] - mean) * rstd * (gain ? gain[c] : 1) + (shift ? shift[c] : 0);
}

/* Queries and keys of qkv (B, T, H + 2 G, D) are normalised over D with `norms`, then rotated by
halves with `cos` and `sin` (T, D), not NULL: component i pairs with i + D / 2. `kept` (B, T, H + G,
D), not NULL, receives what they were before. */
int turn_heads(real *qkv, real *kept, const float *cos, const float *sin, const float *q_gain,
               const float *q_shift, const float *k_gain, const float *k_shift, float eps,
               int64 norms, int64 is_rms, int64 batch, int64 time, int64 n_head, int64 n_kv_head,
               int64 d_head, int threads) {
    norm_kind of_q = {q_gain, q_shift, eps, is_rms}, of_k = {k_gain, k_shift, eps, is_rms};
    int64 turned = n_head + n_kv_head, stride = (turned + n_kv_head) * d_head, half = d_head / 2;
    float *scratch = malloc((size_t)threads * d_head * sizeof(float));
    if (!scratch) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *restrict x = scratch + k * d_head;
        int64 end = first_row(batch * time, k + 1, threads);
        for (int64 n = first_row(batch * time, k, threads); n < end; n++)
            for (int64 i = 0; i < turned; i++) {
                real *row = qkv + n * stride + i * d_head;
                if (kept) memcpy(kept + (n * turned + i) * d_head, row, d_head * sizeof(real));
                for (int64 d = 0; d < d_head; d++) x[d] = load(row[d]);
                if (norms) {
                    norm_kind by = i < n_head ? of_q : of_k;
                    const float *gain = by.gain, *shift = by.shift;
                    float mean, rstd;
                    row_stats(x, by, &mean, &rstd, d_head);
                    EITHER(gain, EITHER(shift, scale_head(x, mean, rstd, gain, shift, d_head)));
                }
                if (!cos) {
                    for (int64 d = 0; d < d_head; d++) row[d] = store(x[d]);
                    continue;
                }
                const float *restrict c = cos + n % time * d_head, *restrict s =
                                                                       sin + n % time * d_head;
                real *restrict low = row, *restrict high = row + half;
#pragma omp simd
                for (int64 d = 0; d < half; d++) {
                    low[d] = store(x[d] * c[d] - x[d + half] * s[d]);
                    high[d] = store(x[d + half] * c[d + half] + x[d] * s[d + half]);
                }
            }
    }
    free(scratch);
    return 0;
}

/* d (B, T, H + 2 G, D), the gradient of turned queries and keys, becomes that of what they were; with
`norms`, `kept` is that of turn_heads, and column_sums (4, D) = gradients of the gain and shift of
queries, and of keys. */
int turn_heads_backward(real *d, const real *kept, const float *cos, const float *sin,
                        const float *q_gain, const float *k_gain, float *column_sums, float eps,
                        int64 norms, int64 is_rms, int64 batch, int64 time, int64 n_head,
                        int64 n_kv_head, int64 d_head, int threads) {
    norm_kind of_q = {.gain = q_gain, .eps = eps, .is_rms = is_rms};
    norm_kind of_k = {.gain = k_gain, .eps = eps, .is_rms = is_rms};
    int64 turned = n_head + n_kv_head, stride = (turned + n_kv_head) * d_head, half = d_head / 2;
    float *sums = sums_of_threads(4 * d_head, threads);
    float *scratch = malloc((size_t)threads * 3 * d_head * sizeof(float));
    if (!sums || !scratch) {
        free(sums);
        free(scratch);
        return NO_MEMORY;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 8 * k * d_head, *latest = total + 4 * d_head;
        float *restrict x = scratch + 3 * k * d_head, *restrict d_x = x + d_head;
        real *restrict back = (real *)(d_x + d_head);
        int64 end = first_row(batch * time, k + 1, threads);
        for (int64 n = first_row(batch * time, k, threads); n < end; n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, 4 * d_head);
            for (int64 i = 0; i < turned; i++) {
                real *restrict row = d + n * stride + i * d_head;
                if (cos) {
                    const float *restrict c = cos + n % time * d_head, *restrict s =
                                                                           sin + n % time * d_head;
#pragma omp simd
                    for (int64 j = 0; j < half; j++) {
                        float low = load(row[j]), high = load(row[j + half]);
                        back[j] = store(low * c[j] + high * s[j + half]);
                        back[j + half] = store(high * c[j + half] - low * s[j]);
                    }
                } else
                    memcpy(back, row, d_head * sizeof(real));
                if (!norms) {
                    memcpy(row, back, d_head * sizeof(real));
                    continue;
                }
                norm_kind by = i < n_head ? of_q : of_k;
                float mean, rstd;
                for (int64 j = 0; j < d_head; j++)
                    x[j] = load(kept[(n * turned + i) * d_head + j]);
                row_stats(x, by, &mean, &rstd, d_head);
                norm_backward_row(back, x, mean, rstd, by, NULL, d_x,
                                  latest + (i < n_head ? 0 : 2 * d_head), d_head);
                for (int64 j = 0; j < d_head; j++) row[j] = store(d_x[j]);
            }
        }
    }
    free(scratch);
    finish_sums(sums, column_sums, 4 * d_head, threads);
    return 0;
}

/* exps = e^(x - max x); returns their sum. */
static inline float exp_row(const real *restrict x, float *restrict exps, int64 width,
                            float *row_max_out) {
    float row_max = -INFINITY, sum = 0;
#pragma omp simd reduction(max : row_max)
    for (int64 c = 0; c < width; c++) row_max = load(x[c]) > row_max ? load(x[c]) : row_max;
#pragma omp simd reduction(+ : sum)
    for (int64 c = 0; c < width; c++) {
        exps[c] = exponential(load(x[c]) - row_max);
        sum += exps[c];
    }
    *row_max_out = row_max;
    return sum;
}

/* out = weights[0] x + weights[1] x0. */
int mix(const float *x, const float *x0, const float *weights, float *out, int64 rows, int64 width,
        int threads) {
    float a = weights[0], b = weights[1];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        const float *restrict row = x + n * width, *restrict row0 = x0 + n * width;
        float *restrict to = out + n * width;
#pragma omp simd
        for (int64 c = 0; c < width; c++) to[c] = a * row[c] + b * row0[c];
    }
    return 0;
}

/* From d, the gradient of `mix`: those of x, x0 and the weights. */
int mix_backward(const float *d, const float *x, const float *x0, const float *weights, float *d_x,
                 float *d_x0, float *d_weights, int64 rows, int64 width, int threads) {
    float a = weights[0], b = weights[1], *sums = sums_of_threads(2, threads);
    if (!sums) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *total = sums + 4 * k, *latest = total + 2;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            if (n % ROWS_PER_SUM == 0) fold(total, 2);
            const float *restrict of = d + n * width, *restrict row = x + n * width;
            const float *restrict row0 = x0 + n * width;
            float *restrict to = d_x + n * width, *restrict to0 = d_x0 + n * width;
            float dot = 0, dot0 = 0;
#pragma omp simd reduction(+ : dot, dot0)
            for (int64 c = 0; c < width; c++) {
                dot += of[c] * row[c];
                dot0 += of[c] * row0[c];
                to[c] = a * of[c];
                to0[c] = b * of[c];
            }
            latest[0] += dot;
            latest[1] += dot0;
        }
    }
    finish_sums(sums, d_weights, 2, threads);
    return 0;
}

/* From the rows (B, T, 2 S) of a linear layer, gates g and then candidates c, the states h (B, T, S) of
a gated linear recurrence: h_t = (1 - z_t) h_(t-1) + z_t value(c_t) with z = sigmoid(g), where the state
before is forgotten if begins (B, T; NULL: only at t = 0) is not 0. */
int recur(const real *rows, const int64 *begins, float *h, int64 batch, int64 time, int64 width,
          int threads) {
    int64 parts = (width + STATES_PER_TASK - 1) / STATES_PER_TASK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 task = 0; task < batch * parts; task++) {
        int64 b = task / parts, first = task % parts * STATES_PER_TASK;
        int64 n = width - first < STATES_PER_TASK ? width - first : STATES_PER_TASK;
        float state[STATES_PER_TASK] = {0};
        for (int64 t = b * time; t < (b + 1) * time; t++) {
            const real *restrict gates = rows + t * 2 * width + first;
            const real *restrict candidates = gates + width;
            float *restrict out = h + t * width + first, keeps = begins && begins[t] ? 0 : 1;
#pragma omp simd
            for (int64 i = 0; i < n; i++) {
                float e = exponential(-load(gates[i])), z = 1 / (1 + e), value, slope;
                positive_of(load(candidates[i]), &value, &slope);
                state[i] = out[i] = keeps * e * z * state[i] + z * value;
            }
        }
    }
    return 0;
}

/* From d (B, T, S), the gradient of h in `recur`: that of rows. */
int recur_backward(const float *d, const real *rows, const int64 *begins, const float *h,
                   real *d_rows, int64 batch, int64 time, int64 width, int threads) {
    int64 parts = (width + STATES_PER_TASK - 1) / STATES_PER_TASK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 task = 0; task < batch * parts; task++) {
        int64 b = task / parts, first = task % parts * STATES_PER_TASK;
        int64 n = width - first < STATES_PER_TASK ? width - first : STATES_PER_TASK;
        /* what later states pass back; the state before the first one is zero */
        float later[STATES_PER_TASK] = {0}, zeros[STATES_PER_TASK] = {0};
        for (int64 t = (b + 1) * time - 1; t >= b * time; t--) {
            const real *restrict gates = rows + t * 2 * width + first;
            const real *restrict candidates = gates + width;
            const float *restrict of = d + t * width + first;
            int forgets = t == b * time || (begins && begins[t]);
            const float *restrict before = forgets ? zeros : h + (t - 1) * width + first;
            float keeps = forgets ? 0 : 1;
            real *restrict d_gates = d_rows + t * 2 * width + first;
            real *restrict d_candidates = d_gates + width;
#pragma omp simd
            for (int64 i = 0; i < n; i++) {
                float e = exponential(-load(gates[i])), z = 1 / (1 + e), value, slope;
                positive_of(load(candidates[i]), &value, &slope);
                float d_h = of[i] + later[i];
                d_gates[i] = store(d_h * (value - before[i]) * z * e * z);
                d_candidates[i] = store(d_h * z * slope);
                later[i] = keeps * d_h * e * z;
            }
        }
    }
    return 0;
}

/* Replace logits l by cap * tanh(l / cap), and write the derivative. tanh(z) = 1 - 2 / (1 + e^2z). */
int softcap(real *logits, real *slope, float cap, int64 rows, int64 width, int threads) {
    float factor = 2 / cap;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64 n = 0; n < rows; n++) {
        real *restrict row = logits + n * width, *restrict out = slope + n * width;
#pragma omp simd
        for (int64 c = 0; c < width; c++) {
            float part = 1 / (1 + exponential(load(row[c]) * factor));
            row[c] = store(cap * (1 - 2 * part));
            out[c] = store(4 * part * (1 - part));
        }
    }
    return 0;
}

/* nats (N) = -log softmax(logits)[target] for logits (N, V). Unless `scale` is 0, the logits are
overwritten with the gradient of scale times the sum of nats. */
int cross_entropy(real *logits, const int64_t *targets, float *nats, float scale, int64 rows,
                  int64 width, int threads) {
    for (int64 n = 0; n < rows; n++)
        if (targets[n] < 0 || targets[n] >= width) return OUT_OF_RANGE;
    float *scratch = malloc((size_t)width * threads * sizeof(float));
    if (!scratch) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int k = 0; k < threads; k++) {
        float *restrict exps = scratch + k * width;
        for (int64 n = first_row(rows, k, threads); n < first_row(rows, k + 1, threads); n++) {
            real *restrict row = logits + n * width;
            float row_max, sum = exp_row(row, exps, width, &row_max);
            nats[n] = logf(sum) - (load(row[targets[n]]) - row_max);
            if (scale == 0) continue;
            exps[targets[n]] -= sum;
#pragma omp simd
            for (int64 c = 0; c < width; c++) row[c] = store(exps[c] / sum * scale);
        }
    }
    free(scratch);
    return 0;
}
