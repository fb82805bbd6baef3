/* Calls every kernel on arrays of exactly the size it may touch, for the sanitizers to watch. */

#include "kernels.h"

static uint32_t state = 1;
static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1;
}

static void *made[64];
static int n_made;
static void *keep(void *memory) {
    if (!memory || n_made == 64) abort();
    return made[n_made++] = memory;
}
static float *floats(int64 size) {
    float *x = keep(malloc(size * sizeof *x));
    for (int64 i = 0; i < size; i++) x[i] = noise();
    return x;
}
static real *reals(int64 size) {
    real *x = keep(malloc(size * sizeof *x));
    for (int64 i = 0; i < size; i++) x[i] = store(noise());
    return x;
}
/* document starts (B, T): a new document at every fifth token */
static int64 *first_keys(int64 batch, int64 time) {
    int64 *starts = keep(malloc(batch * time * sizeof *starts));
    for (int64 i = 0; i < batch * time; i++) starts[i] = i % time / 5 * 5;
    return starts;
}
static void release(void) {
    while (n_made) free(made[--n_made]);
}
static void check(int failure) {
    if (failure) abort();
}

static void fused(int64 rows, int64 width, int64 threshold, int threads) {
    int64 size = rows * width;
    real *a = reals(size), *b = reals(size);
    float *bias = floats(width), *gain = floats(width), *x = floats(size), *y = floats(size);
    float *mean = floats(rows), *rstd = floats(rows), *sums = floats(2 * width);
    int64 *targets = keep(malloc(rows * sizeof *targets));
    for (int64 i = 0; i < rows; i++) targets[i] = i % width;
    check(add(a, bias, x, y, 5, 3, threshold, rows, width, threads));
    check(add(a, NULL, x, y, 5, 3, threshold, rows, width, threads));
    check(norm(x, gain, bias, 1e-5f, 0, b, mean, rstd, rows, width, threads));
    check(norm(x, NULL, NULL, 1e-5f, 1, b, mean, rstd, rows, width, threads));
    check(add_and_norm(a, bias, x, gain, bias, 1e-5f, 0, y, b, mean, rstd, 5, 3, threshold, rows,
                       width, threads));
    check(round_and_sum(x, a, sums, 5, 3, threshold, rows, width, threads));
    check(round_and_sum(x, NULL, sums, 0, 0, 0, rows, width, threads));
    check(norm_backward(a, x, mean, rstd, gain, 0, x, y, sums, rows, width, threads));
    check(norm_backward(a, x, mean, rstd, NULL, 1, NULL, y, sums, rows, width, threads));
    real *other = reals(size), *more = reals(size);
    check(gelu(a, bias, b, rows, width, threads));
    check(relu2(a, NULL, b, rows, width, threads));
    check(swiglu(a, bias, b, NULL, other, rows, width, threads));
    check(slope_backward(b, a, sums, rows, width, threads));
    check(slopes_backward(b, a, other, more, sums, rows, width, threads));
    float *d = floats(size), *d_x = floats(size);
    float *two = floats(2), *of_two = floats(2), *d_x0 = floats(size);
    check(mix(x, y, two, d, rows, width, threads));
    check(mix_backward(d, x, y, two, d_x, d_x0, of_two, rows, width, threads));
    for (int k = 0; k < 2; k++) {
        const int64 *begins = k ? targets : NULL;
        check(recur(a, begins, y, 1, rows, width / 2, threads));
        check(recur_backward(x, a, begins, y, b, 1, rows, width / 2, threads));
    }
    check(softcap(a, b, 15, rows, width, threads));
    check(cross_entropy(a, targets, mean, 0, rows, width, threads));
    check(cross_entropy(a, targets, mean, 0.5f, rows, width, threads));
    targets[rows - 1] = width;
    if (cross_entropy(a, targets, mean, 0.5f, rows, width, threads) != OUT_OF_RANGE) abort();
    release();
}

static void heads(int64 batch, int64 time, int64 n_head, int64 d_head, int64 threshold,
                  int threads) {
    int64 size = batch * time * n_head * d_head, width = 3 * n_head * d_head;
    real *qkv = reals(3 * size), *y = reals(size), *d_y = reals(size), *d_qkv = reals(3 * size);
    int64 *starts = threshold ? first_keys(batch, time) : NULL;
    float *bias = floats(width), *of_columns = floats(width);
    float *logs = floats(3 * batch * n_head * time);
    check(attend_float(qkv, y, logs, starts, 5, 3, threshold, batch, time, n_head, n_head, d_head,
                       threads));
    check(attend_float_backward(qkv, d_y, logs, d_qkv, of_columns, starts, 5, 3, threshold, batch,
                                time, n_head, n_head, d_head, threads));
    /* the same rows as 3 H - 2 heads of queries and one of keys and values */
    int64 n_queries = 3 * n_head - 2;
    real *more_y = reals(batch * time * n_queries * d_head);
    check(attend_float(qkv, more_y, logs, starts, 5, 3, threshold, batch, time, n_queries, 1, d_head,
                       threads));
    check(attend_float_backward(qkv, more_y, logs, d_qkv, of_columns, starts, 5, 3, threshold, batch,
                                time, n_queries, 1, d_head, threads));
    float *angles = floats(time * d_head), *sums = floats(4 * d_head);
    const float *of_turn = d_head % 2 ? NULL : angles;
    real *kept = reals(batch * time * (n_queries + 1) * d_head);
    check(turn_heads(qkv, kept, of_turn, of_turn, bias, NULL, bias, bias, 1e-5f, 1, 0, batch, time,
                     n_queries, 1, d_head, threads));
    check(turn_heads_backward(qkv, kept, of_turn, of_turn, bias, NULL, sums, 1e-5f, 1, 1, batch,
                              time, n_queries, 1, d_head, threads));
    check(turn_heads(qkv, NULL, of_turn, of_turn, NULL, NULL, NULL, NULL, 0, 0, 0, batch, time,
                     n_queries, 1, d_head, threads));
    check(turn_heads_backward(qkv, NULL, of_turn, of_turn, NULL, NULL, sums, 0, 0, 0, batch, time,
                              n_queries, 1, d_head, threads));
    release();
}

#ifdef PRODUCTS

static void products(int64 rows, int64 depth, int64 columns, int64 threshold, int threads) {
    real *x = reals(rows * depth), *out = reals(rows * columns), *kept = reals(rows * columns);
    real *d = reals(rows * columns), *d_x = reals(rows * depth);
    float *w = floats(depth * columns), *bias = floats(columns), *stream = floats(rows * columns);
    float *gain = floats(columns), *total = floats(rows * columns), *mean = floats(rows);
    float *rstd = floats(rows), *d_w = floats(depth * columns), *sums = floats(2 * depth);
    float *in = floats(rows * depth), *d_in = floats(rows * depth), *gain_in = floats(depth);
    check(linear(x, w, out, rows, depth, columns, threads));
    check(linear_bias(x, w, bias, out, rows, depth, columns, threads));
    check(linear_gelu(x, w, bias, out, kept, rows, depth, columns, threads));
    check(linear_add(x, w, bias, stream, total, 5, 3, threshold, rows, depth, columns, threads));
    check(linear_relu2(x, w, NULL, out, kept, rows, depth, columns, threads));
    check(linear_swiglu(x, w, bias, d, out, kept, rows, depth, columns, threads));
    check(linear_add_norm(x, w, bias, stream, gain, bias, 1e-5f, 0, total, out, mean, rstd, 5, 3,
                          threshold, rows, depth, columns, threads));
    check(linear_backward(d, w, d_x, rows, columns, depth, threads));
    check(linear_backward_slope(d, w, x, d_x, sums, rows, columns, depth, threads));
    real *other = reals(rows * depth);
    check(linear_backward_slopes(d, w, x, x, d_x, other, sums, rows, columns, depth, threads));
    check(linear_backward_norm(d, w, x, in, mean, rstd, gain_in, 0, in, d_x, d_in, sums, rows,
                               columns, depth, threads));
    check(linear_weights(d, x, d_w, rows, columns, depth, threads));
    release();
}

static void attention(int64 batch, int64 time, int64 n_head, int64 d_head, int64 threshold,
                      int threads) {
    int64 size = batch * time * n_head * d_head;
    real *qkv = reals(3 * size), *y = reals(size), *d_y = reals(size), *d_qkv = reals(3 * size);
    float *logs = floats(batch * n_head * time), *sums = floats(3 * n_head * d_head);
    int64 *starts = threshold ? first_keys(batch, time) : NULL;
    check(attend(qkv, y, logs, starts, 5, 3, threshold, batch, time, n_head, n_head, d_head,
                 threads));
    check(attend_backward(qkv, d_y, logs, d_qkv, sums, starts, 5, 3, threshold, batch, time, n_head,
                          n_head, d_head, threads));
    /* keys and values of one head for all */
    check(attend(qkv, y, logs, starts, 5, 3, threshold, batch, time, n_head, 1, d_head, threads));
    check(attend_backward(qkv, d_y, logs, d_qkv, sums, starts, 5, 3, threshold, batch, time, n_head,
                          1, d_head, threads));
    release();
}

#endif

int main(void) {
    static const int64 sizes[] = {1, 2, 31, 33, 70};
    for (int threads = 1; threads < 4; threads += 2)
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 5; j++) {
                int64 a = sizes[i], b = sizes[j], threshold = (i + j) % 2 * 6554;
                fused(a, b, threshold, threads);
                heads(2, a, 3, b, threshold, threads);
#ifdef PRODUCTS
                products(a, b, sizes[(i + j) % 5], threshold, threads);
                attention(2, a, 2, b, threshold, threads);
#endif
            }
#ifdef PRODUCTS
    products(40, 700, 1000, 0, 2);    /* the right operand is packed by each thread */
    products(5, 2100, 330, 6554, 2);  /* the depth is summed in parts */
    attention(1, 300, 1, 8, 6554, 2); /* more queries than the backward holds at a time */
#endif
    return 0;
}
