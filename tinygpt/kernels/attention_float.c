/* Causal attention with sums in float, for CPUs whose instructions for bfloat16 are not used.

The algorithm and the layout in memory are those of attention.c; plain vectors do the products. A head
is copied to float and padded with zeros to whole panels, so no loop has an edge. */

#include "kernels.h"

#include <omp.h>

enum {
    FLOATS = 8,          /* of a vector: one register of AVX2, two of NEON */
    PANEL = 2 * FLOATS,  /* columns of a right operand that are packed together */
    TALL = 6,            /* most rows of a tile: 12 sums, of 16 registers */
    QUERIES = 32,        /* whose scores a thread holds at a time */
};

typedef float vec __attribute__((vector_size(4 * FLOATS)));
typedef float vec_anywhere __attribute__((vector_size(4 * FLOATS), aligned(4)));

/* Sizes B, T, H, G, D; T and D rounded up to whole panels; the distance between tokens in y and in qkv. */
typedef struct {
    int64 batch, time, heads, kv_heads, width, padded_time, padded_width, y_stride, qkv_stride;
    const int64 *starts; /* (B, T): the first key that each query sees; NULL: all from 0 */
    dropout drop;        /* of probabilities */
    float scale;         /* of scores */
} sizes;

/* The memory of a thread, in floats. A right operand (depth, columns) is in panels: for each 16 columns,
16 floats of each row. */
typedef struct {
    float *keys_by_width, *values_by_width; /* right operands (D, T) */
    float *keys, *values;                   /* right operands (T, D) */
    float *d_keys, *d_values;               /* (T, D) in rows */
    float *queries, *d_y;                   /* (32, D) in rows, */
    float *right_queries, *right_d_y;       /* and as right operands */
    float *scores, *d_scores;               /* (32, T) in rows */
    float *out;                             /* (32, D) in rows */
} workspace;

static int64 round_up(int64 n, int64 to) { return (n + to - 1) / to * to; }
static int64 lesser(int64 a, int64 b) { return a < b ? a : b; }

static sizes sizes_of(int64 batch, int64 time, int64 heads, int64 kv_heads, int64 width,
                      const int64 *starts, dropout drop) {
    return (sizes){.batch = batch,
                   .time = time,
                   .heads = heads,
                   .kv_heads = kv_heads,
                   .width = width,
                   .padded_time = round_up(time, PANEL),
                   .padded_width = round_up(width, PANEL),
                   .y_stride = heads * width,
                   .qkv_stride = (heads + 2 * kv_heads) * width,
                   .starts = starts,
                   .drop = drop,
                   .scale = 1 / sqrtf(width)};
}

/* Cut arrays off `memory`, or count the floats that they need if it is NULL. */
static int64 carve(const sizes *s, float *memory, int backward, workspace *into) {
    int64 whole = s->padded_time * s->padded_width, rows = QUERIES * s->padded_width;
    int64 row_scores = QUERIES * s->padded_time, used = 0;
    struct {
        float **array;
        int64 size;
    } parts[] = {
        {&into->keys_by_width, whole},
        {&into->queries, rows},
        {&into->out, rows},
        {&into->scores, row_scores},
        {&into->values, backward ? 0 : whole},
        {&into->values_by_width, backward ? whole : 0},
        {&into->keys, backward ? whole : 0},
        {&into->d_keys, backward ? whole : 0},
        {&into->d_values, backward ? whole : 0},
        {&into->d_y, backward ? rows : 0},
        {&into->right_queries, backward ? rows : 0},
        {&into->right_d_y, backward ? rows : 0},
        {&into->d_scores, backward ? row_scores : 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].array = memory ? memory + used : NULL;
        used += parts[i].size;
    }
    return used;
}

/* --- products ---------------------------------------------------------------------------------- */

/* out (rows, 16) = left (rows, depth) times one panel; with `adds`, +=. Element (r, k) of left is at
r * row_step + k * step. */
INLINE void tile(const int rows, const float *left, int64 row_step, int64 step, const float *panel,
                 int64 depth, float *out, int64 out_stride, const int adds) {
    vec sums[TALL][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++)
            sums[r][v] = adds ? *(vec_anywhere *)(out + r * out_stride + v * FLOATS) : (vec){0};
    for (int64 k = 0; k < depth; k++, left += step, panel += PANEL) {
        vec low = *(const vec_anywhere *)panel, high = *(const vec_anywhere *)(panel + FLOATS);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float x = left[r * row_step];
            sums[r][0] += x * low;
            sums[r][1] += x * high;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) *(vec_anywhere *)(out + r * out_stride + v * FLOATS) = sums[r][v];
}

/* out (rows, columns) = left (rows, depth) times the panels of `right`, which are `next` floats apart;
with `adds`, +=. Columns are whole panels. */
INLINE void multiply(const float *left, int64 row_step, int64 step, const float *right, int64 next,
                     float *out, int64 out_stride, int64 rows, int64 columns, int64 depth,
                     const int adds) {
    for (int64 c = 0; c < columns; c += PANEL, right += next)
        for (int64 r = 0; r < rows; r += TALL) {
            const float *from = left + r * row_step;
            float *to = out + r * out_stride + c;
#define TILE(n)                                                                                    \
    case n:                                                                                        \
        tile(n, from, row_step, step, right, depth, to, out_stride, adds);                         \
        break;
            switch (lesser(TALL, rows - r)) {
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
            }
#undef TILE
        }
}

/* `rows` tokens of a head, (rows, D) and `stride` reals apart, in rows of padded_width floats. */
static void copy_rows(const sizes *s, const real *from, int64 stride, int64 rows, float scale,
                      float *restrict to) {
    memset(to, 0, rows * s->padded_width * sizeof *to);
    for (int64 t = 0; t < rows; t++, from += stride, to += s->padded_width)
#pragma omp simd
        for (int64 d = 0; d < s->width; d++) to[d] = load(from[d]) * scale;
}

/* The same tokens as a right operand (rows, D); its panels have room for `room` rows. */
static void pack_rows(const sizes *s, const real *from, int64 stride, int64 rows, int64 room,
                      float scale, float *restrict to) {
    memset(to, 0, room * s->padded_width * sizeof *to);
    for (int64 t = 0; t < rows; t++, from += stride)
        for (int64 first = 0; first < s->width; first += PANEL) {
            float *restrict at = to + first * room + t * PANEL;
            int64 count = lesser(PANEL, s->width - first);
            for (int64 d = 0; d < count; d++) at[d] = load(from[first + d]) * scale;
        }
}

/* All tokens as a right operand (D, T). */
static void pack_columns(const sizes *s, const real *from, int64 stride, float *restrict to) {
    memset(to, 0, s->padded_time * s->padded_width * sizeof *to);
    for (int64 t = 0; t < s->time; t++, from += stride) {
        float *restrict at = to + t / PANEL * PANEL * s->padded_width + t % PANEL;
        for (int64 d = 0; d < s->width; d++) at[d * PANEL] = load(from[d]);
    }
}

/* --- heads ------------------------------------------------------------------------------------- */

enum { OF_QUERIES, OF_KEYS, OF_VALUES };

/* Offset of a head (0 to B H - 1) in y; of its queries, keys or values in qkv. */
static int64 in_y(const sizes *s, int64 head) {
    return head / s->heads * s->time * s->y_stride + head % s->heads * s->width;
}

static int64 in_qkv(const sizes *s, int64 head, int64 kind) {
    int64 of_head = head % s->heads, shared = of_head / (s->heads / s->kv_heads);
    int64 row = kind == OF_QUERIES ? of_head : s->heads + (kind - OF_KEYS) * s->kv_heads + shared;
    return head / s->heads * s->time * s->qkv_stride + row * s->width;
}

/* The first key that token t of a head sees. */
static int64 first_key(const sizes *s, int64 head, int64 t) {
    return s->starts ? s->starts[head / s->heads * s->time + t] : 0;
}

/* Keys that some of the queries first to first + count - 1 see, in whole panels: [*from, *to). */
static void seen_by(const sizes *s, int64 head, int64 first, int64 count, int64 *from, int64 *to) {
    int64 start = first;
    for (int64 t = first; t < first + count; t++) start = lesser(start, first_key(s, head, t));
    *from = start / PANEL * PANEL;
    *to = round_up(first + count, PANEL);
}

/* row *= the factors of dropout of row n, for keys from `from` to `end`. */
static void drop_row(const sizes *s, int64 n, float *restrict row, int64 from, int64 end) {
    float factors[DROPOUT_COLUMNS];
    for (int64 group = from / DROPOUT_COLUMNS * DROPOUT_COLUMNS; group < end; group += DROPOUT_COLUMNS) {
        int64 first = group < from ? from : group, last = lesser(group + DROPOUT_COLUMNS, end);
        dropout_factors(s->drop, n, group / DROPOUT_COLUMNS, factors);
#pragma omp simd
        for (int64 c = first; c < last; c++) row[c] *= factors[c - group];
    }
}

/* Make scores of keys `start` to `end` - 1 e^(score - largest), and those of other keys from `from` to
`to` - 1 zero. Returns their sum; *log_sum = log of the sum of e^score. */
static float exp_row(float *restrict row, int64 from, int64 start, int64 end, int64 to,
                     float *log_sum) {
    float largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64 c = start; c < end; c++) largest = row[c] > largest ? row[c] : largest;
#pragma omp simd reduction(+ : sum)
    for (int64 c = start; c < end; c++) {
        row[c] = exponential(row[c] - largest);
        sum += row[c];
    }
    for (int64 c = from; c < start; c++) row[c] = 0;
    for (int64 c = end; c < to; c++) row[c] = 0;
    *log_sum = largest + logf(sum);
    return sum;
}

static void attend_head(const sizes *s, const real *qkv, real *y, float *logs, int64 head,
                        const workspace *own) {
    const real *q = qkv + in_qkv(s, head, OF_QUERIES);
    float totals[QUERIES];
    pack_columns(s, qkv + in_qkv(s, head, OF_KEYS), s->qkv_stride, own->keys_by_width);
    pack_rows(s, qkv + in_qkv(s, head, OF_VALUES), s->qkv_stride, s->time, s->padded_time, 1,
              own->values);
    for (int64 first = 0; first < s->time; first += QUERIES) {
        int64 count = lesser(QUERIES, s->time - first), from, to;
        seen_by(s, head, first, count, &from, &to);
        copy_rows(s, q + first * s->qkv_stride, s->qkv_stride, count, s->scale, own->queries);
        multiply(own->queries, s->padded_width, 1, own->keys_by_width + from * s->padded_width,
                 PANEL * s->padded_width, own->scores + from, s->padded_time, count, to - from,
                 s->padded_width, 0);
        for (int64 r = 0; r < count; r++) {
            int64 t = first + r, n = head * s->time + t;
            float *row = own->scores + r * s->padded_time;
            totals[r] = exp_row(row, from, first_key(s, head, t), t + 1, to, logs + n);
            if (s->drop.threshold) drop_row(s, n, row, from, t + 1);
        }
        multiply(own->scores + from, s->padded_time, 1, own->values + from * PANEL,
                 PANEL * s->padded_time, own->out, s->padded_width, count, s->padded_width,
                 to - from, 0);
        for (int64 r = 0; r < count; r++) {
            real *restrict at = y + in_y(s, head) + (first + r) * s->y_stride;
            const float *restrict out = own->out + r * s->padded_width;
            float factor = 1 / totals[r];
#pragma omp simd
            for (int64 d = 0; d < s->width; d++) at[d] = store(out[d] * factor);
        }
    }
}

/* `logs` (B, H, T) receives *log_sum of `exp_row` for each query. */
int attend_float(const real *qkv, real *y, float *logs, const int64 *starts, int64 key,
                 int64 stream, int64 threshold, int64 batch, int64 time, int64 heads,
                 int64 kv_heads, int64 width, int threads) {
    sizes s = sizes_of(batch, time, heads, kv_heads, width, starts, (dropout){key, stream, threshold});
    workspace own;
    int64 each = carve(&s, NULL, 0, &own);
    float *memory = aligned_alloc(64, threads * each * sizeof(float));
    if (!memory) return NO_MEMORY;
#pragma omp parallel num_threads(threads) private(own)
    {
        carve(&s, memory + omp_get_thread_num() * each, 0, &own);
#pragma omp for schedule(dynamic)
        for (int64 head = 0; head < batch * heads; head++) attend_head(&s, qkv, y, logs, head, &own);
    }
    free(memory);
    return 0;
}

/* Make scores probabilities p, dropped in the end, and d, the gradient of these, that of the scores. */
static void gradient_of_row(const sizes *s, float *restrict p, float *restrict d, float log_sum,
                            int64 n, int64 from, int64 start, int64 end, int64 to) {
    float mean = 0; /* of d, weighted by p */
    if (s->drop.threshold) drop_row(s, n, d, start, end);
#pragma omp simd reduction(+ : mean)
    for (int64 c = start; c < end; c++) {
        p[c] = exponential(p[c] - log_sum);
        mean += p[c] * d[c];
    }
#pragma omp simd
    for (int64 c = start; c < end; c++) d[c] = p[c] * (d[c] - mean);
    if (s->drop.threshold) drop_row(s, n, p, start, end);
    for (int64 c = from; c < start; c++) p[c] = d[c] = 0;
    for (int64 c = end; c < to; c++) p[c] = d[c] = 0;
}

/* Write gradients of `rows` tokens from `first` on, in rows, to d_qkv; add them to the sums over tokens. */
static void place(const sizes *s, const float *gradients, float scale, int64 head, int64 kind,
                  int64 first, int64 rows, real *d_qkv, float *sums_of_tokens) {
    real *restrict to = d_qkv + in_qkv(s, head, kind) + first * s->qkv_stride;
    float *restrict sums = sums_of_tokens + head / s->heads * s->qkv_stride;
    sums += in_qkv(s, head % s->heads, kind);
    for (int64 r = 0; r < rows; r++, gradients += s->padded_width, to += s->qkv_stride)
#pragma omp simd
        for (int64 d = 0; d < s->width; d++) {
            float gradient = gradients[d] * scale;
            sums[d] += gradient;
            to[d] = store(gradient);
        }
}

/* The heads that share head `group` (0 to B G - 1) of keys and values, one after another. */
static void attend_group_backward(const sizes *s, const real *qkv, const real *d_y,
                                  const float *logs, real *d_qkv, float *sums_of_tokens,
                                  int64 group, const workspace *own) {
    int64 n_heads = s->heads / s->kv_heads, first_head = group * n_heads;
    int64 whole = s->padded_time * s->padded_width, width = s->padded_width;
    const real *k = qkv + in_qkv(s, first_head, OF_KEYS);
    pack_columns(s, k, s->qkv_stride, own->keys_by_width);
    pack_rows(s, k, s->qkv_stride, s->time, s->padded_time, 1, own->keys);
    pack_columns(s, qkv + in_qkv(s, first_head, OF_VALUES), s->qkv_stride, own->values_by_width);
    memset(own->d_keys, 0, whole * sizeof(float));
    memset(own->d_values, 0, whole * sizeof(float));
    for (int64 head = first_head; head < first_head + n_heads; head++)
        for (int64 first = 0; first < s->time; first += QUERIES) {
            int64 count = lesser(QUERIES, s->time - first), from, to;
            const real *q = qkv + in_qkv(s, head, OF_QUERIES) + first * s->qkv_stride;
            const real *d = d_y + in_y(s, head) + first * s->y_stride;
            seen_by(s, head, first, count, &from, &to);
            copy_rows(s, q, s->qkv_stride, count, s->scale, own->queries);
            copy_rows(s, d, s->y_stride, count, 1, own->d_y);
            pack_rows(s, q, s->qkv_stride, count, QUERIES, s->scale, own->right_queries);
            pack_rows(s, d, s->y_stride, count, QUERIES, 1, own->right_d_y);
            multiply(own->queries, width, 1, own->keys_by_width + from * width, PANEL * width,
                     own->scores + from, s->padded_time, count, to - from, width, 0);
            multiply(own->d_y, width, 1, own->values_by_width + from * width, PANEL * width,
                     own->d_scores + from, s->padded_time, count, to - from, width, 0);
            for (int64 r = 0; r < count; r++) {
                int64 t = first + r, n = head * s->time + t, at = r * s->padded_time;
                gradient_of_row(s, own->scores + at, own->d_scores + at, logs[n], n, from,
                                first_key(s, head, t), t + 1, to);
            }
            multiply(own->d_scores + from, s->padded_time, 1, own->keys + from * PANEL,
                     PANEL * s->padded_time, own->out, width, count, width, to - from, 0);
            place(s, own->out, s->scale, head, OF_QUERIES, first, count, d_qkv, sums_of_tokens);
            multiply(own->d_scores + from, 1, s->padded_time, own->right_queries, PANEL * QUERIES,
                     own->d_keys + from * width, width, to - from, width, count, 1);
            multiply(own->scores + from, 1, s->padded_time, own->right_d_y, PANEL * QUERIES,
                     own->d_values + from * width, width, to - from, width, count, 1);
        }
    place(s, own->d_keys, 1, first_head, OF_KEYS, 0, s->time, d_qkv, sums_of_tokens);
    place(s, own->d_values, 1, first_head, OF_VALUES, 0, s->time, d_qkv, sums_of_tokens);
}

/* d_qkv, and its sums over all tokens, from the gradient of y. */
int attend_float_backward(const real *qkv, const real *d_y, const float *logs, real *d_qkv,
                          float *column_sums, const int64 *starts, int64 key, int64 stream,
                          int64 threshold, int64 batch, int64 time, int64 heads, int64 kv_heads,
                          int64 width, int threads) {
    sizes s = sizes_of(batch, time, heads, kv_heads, width, starts, (dropout){key, stream, threshold});
    workspace own;
    int64 each = carve(&s, NULL, 1, &own);
    float *memory = aligned_alloc(64, threads * each * sizeof(float));
    float *sums_of_tokens = calloc(batch * s.qkv_stride, sizeof(float));
    int failure = memory && sums_of_tokens ? 0 : NO_MEMORY;
    if (!failure) {
#pragma omp parallel num_threads(threads) private(own)
        {
            carve(&s, memory + omp_get_thread_num() * each, 1, &own);
#pragma omp for schedule(dynamic)
            for (int64 group = 0; group < batch * kv_heads; group++)
                attend_group_backward(&s, qkv, d_y, logs, d_qkv, sums_of_tokens, group, &own);
        }
        memset(column_sums, 0, s.qkv_stride * sizeof(float));
        for (int64 b = 0; b < batch; b++)
            for (int64 c = 0; c < s.qkv_stride; c++)
                column_sums[c] += sums_of_tokens[b * s.qkv_stride + c];
    }
    free(sums_of_tokens);
    free(memory);
    return failure;
}
