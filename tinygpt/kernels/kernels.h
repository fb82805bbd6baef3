/* The functions that Python calls, by name, through ctypes (fused.py, products.py).

Each returns 0 or an error code of common.h.  Every array belongs to the caller, who has allocated
outputs too; scratch memory is allocated and freed within a call. */

#pragma once

#include "common.h"

/* fused.c */
int add(const real *update, const float *bias, const float *x, float *sum, int64 key, int64 stream,
        int64 threshold, int64 rows, int64 width, int threads);
int norm(const float *x, const float *gain, const float *shift, float eps, int64 is_rms,
         real *normed, float *mean, float *rstd, int64 rows, int64 width, int threads);
int add_and_norm(const real *update, const float *bias, const float *x, const float *gain,
                 const float *shift, float eps, int64 is_rms, float *sum, real *normed,
                 float *mean, float *rstd, int64 key, int64 stream, int64 threshold, int64 rows,
                 int64 width, int threads);
int round_and_sum(const float *x, real *rounded, float *column_sums, int64 key, int64 stream,
                  int64 threshold, int64 rows, int64 width, int threads);
int norm_backward(const real *d_normed, const float *x, const float *mean, const float *rstd,
                  const float *gain, int64 is_rms, const float *residual, float *d_x,
                  float *column_sums, int64 rows, int64 width, int threads);
int gelu(real *x, const float *bias, real *y, int64 rows, int64 width, int threads);
int relu2(real *x, const float *bias, real *y, int64 rows, int64 width, int threads);
int swiglu(real *gate, const float *gate_bias, real *up, const float *up_bias, real *y, int64 rows,
           int64 width, int threads);
int slope_backward(real *d, const real *slope, float *column_sums, int64 rows, int64 width,
                   int threads);
int slopes_backward(real *d, const real *slope, const real *other_slope, real *other,
                    float *column_sums, int64 rows, int64 width, int threads);
int turn_heads(real *qkv, real *kept, const float *cos, const float *sin, const float *q_gain,
               const float *q_shift, const float *k_gain, const float *k_shift, float eps,
               int64 norms, int64 is_rms, int64 batch, int64 time, int64 n_head, int64 n_kv_head,
               int64 d_head, int threads);
int turn_heads_backward(real *d, const real *kept, const float *cos, const float *sin,
                        const float *q_gain, const float *k_gain, float *column_sums, float eps,
                        int64 norms, int64 is_rms, int64 batch, int64 time, int64 n_head,
                        int64 n_kv_head, int64 d_head, int threads);
int mix(const float *x, const float *x0, const float *weights, float *out, int64 rows, int64 width,
        int threads);
int mix_backward(const float *d, const float *x, const float *x0, const float *weights, float *d_x,
                 float *d_x0, float *d_weights, int64 rows, int64 width, int threads);
int recur(const real *rows, const int64 *begins, float *h, int64 batch, int64 time, int64 width,
          int threads);
int recur_backward(const float *d, const real *rows, const int64 *begins, const float *h,
                   real *d_rows, int64 batch, int64 time, int64 width, int threads);
int softcap(real *logits, real *slope, float cap, int64 rows, int64 width, int threads);
int cross_entropy(real *logits, const int64_t *targets, float *nats, float scale, int64 rows,
                  int64 width, int threads);

/* attention_float.c */
int attend_float(const real *qkv, real *y, float *logs, const int64 *starts, int64 key,
                 int64 stream, int64 threshold, int64 batch, int64 time, int64 heads,
                 int64 kv_heads, int64 width, int threads);
int attend_float_backward(const real *qkv, const real *d_y, const float *logs, real *d_qkv,
                          float *column_sums, const int64 *starts, int64 key, int64 stream,
                          int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads,
                          int64 width, int threads);

/* products.c: `multiplies` always, the others as in attention.c */
int multiplies(void);
int linear(const real *x, const float *w, real *out, int64 rows, int64 depth, int64 columns,
           int threads);
int linear_bias(const real *x, const float *w, const float *bias, real *out, int64 rows,
                int64 depth, int64 columns, int threads);
int linear_gelu(const real *x, const float *w, const float *bias, real *out, real *slope,
                int64 rows, int64 depth, int64 columns, int threads);
int linear_relu2(const real *x, const float *w, const float *bias, real *out, real *slope,
                 int64 rows, int64 depth, int64 columns, int threads);
int linear_swiglu(const real *x, const float *w, const float *bias, real *gate, real *out,
                  real *slope, int64 rows, int64 depth, int64 columns, int threads);
int linear_add(const real *x, const float *w, const float *bias, const float *residual,
               float *total, int64 key, int64 stream, int64 threshold, int64 rows, int64 depth,
               int64 columns, int threads);
int linear_add_norm(const real *x, const float *w, const float *bias, const float *residual,
                    const float *gain, const float *shift, float eps, int64 is_rms, float *total,
                    real *normed, float *mean, float *rstd, int64 key, int64 stream,
                    int64 threshold, int64 rows, int64 depth, int64 columns, int threads);
int linear_backward(const real *d, const float *w, real *d_x, int64 rows, int64 depth,
                    int64 columns, int threads);
int linear_backward_slope(const real *d, const float *w, const real *slope, real *d_x,
                          float *column_sums, int64 rows, int64 depth, int64 columns, int threads);
int linear_backward_slopes(const real *d, const float *w, const real *slope,
                           const real *other_slope, real *d_x, real *other, float *column_sums,
                           int64 rows, int64 depth, int64 columns, int threads);
int linear_backward_norm(const real *d, const float *w, const real *more, const float *x,
                         const float *mean, const float *rstd, const float *gain, int64 is_rms,
                         const float *residual, real *d_normed, float *d_x, float *column_sums,
                         int64 rows, int64 depth, int64 columns, int threads);
int linear_weights(const real *d, const real *x, float *d_w, int64 rows, int64 height, int64 width,
                   int threads);

/* attention.c: only with -DBFLOAT16, on a CPU that has the instructions */
int attend(const real *qkv, real *y, float *logs, const int64 *starts, int64 key, int64 stream,
           int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads, int64 width,
           int threads);
int attend_backward(const real *qkv, const real *d_y, const float *logs, real *d_qkv,
                    float *column_sums, const int64 *starts, int64 key, int64 stream,
                    int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads,
                    int64 width, int threads);
