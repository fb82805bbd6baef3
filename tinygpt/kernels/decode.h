/* A transformer that reads tokens one after another: its weights, its cache, and the calls.

Python fills these structures (decode.py has the same ones for ctypes).  A pointer that is NULL means
that the model has no such part. */

#pragma once

#include "common.h"

enum { FP32, BF16, INT8 };          /* how the weights of matrices are held */
enum { GELU, GELU_ERF, RELU2, SWIGLU }; /* feed-forward layers */
enum { NGRAMS = 7 };                    /* most tables of n-grams */

/* y[j] = scales[j] * (sum over k of weights[j][k] * x[k]) + bias[j]; packed by `pack_matrix`. */
typedef struct {
    const void *weights;
    const float *scales; /* only with INT8 */
    const float *bias;
    int64 outs, depth;
} matrix;

typedef struct {
    const float *gain, *shift;
} norm_parameters;

typedef struct {
    norm_parameters attention_norm, attention_post_norm, q_norm, k_norm, mlp_norm, mlp_post_norm;
    matrix qkv, out, up, down; /* `up` of SwiGLU holds the gate too: see `activate` */
    const float *shortcut;     /* weights of the stream and of the embedded tokens */
    const float *value_mix;    /* weights of this layer's and of the first layer's values */
    const float *value_embedding, *value_gate; /* (vocabulary, G * D), (G, gate_width) */
} decoder_layer;

typedef struct {
    int64 n_layer, n_head, n_kv_head, d_model, d_head, d_ff, vocab_size;
    int64 n_slots, capacity; /* sequences, and the most tokens of each */
    int64 window;            /* newest positions that attention sees; 0 sees all */
    int64 n_tables, table_rows, gate_width;
    int64 format, feedforward;
    int64 rms, embedding_normed, qk_normed, post_normed; /* 1 or 0 */
    float eps, softcap; /* a softcap of 0 caps nothing */
    const float *token_embedding, *position_embedding, *cosines, *sines; /* (capacity, D / 2) */
    const float *tables[NGRAMS]; /* (table_rows, d_model) each: of the last 2, 3, ... tokens */
    norm_parameters embedding_norm, norm;
    matrix head;
    const decoder_layer *layers;
    /* the cache: zeros at first */
    void *keys, *values; /* sizes by `cache_sizes` */
    int64 *history;      /* (n_slots, capacity): tokens */
} decoder;

int64 decoder_bytes(void);                                     /* sizeof(decoder) */
int64 packed_bytes(int64 outs, int64 depth, int64 format);     /* of a matrix */
int64 outs_per_block(void);                                    /* outputs computed together */
void pack_matrix(const float *w, int64 outs, int64 depth, int64 format, void *packed, float *scales,
                int threads);
void cache_sizes(const decoder *d, int64 *keys, int64 *values); /* bytes of each */
int decode(const decoder *d, const int64 *tokens, const int64 *slots, const int64 *positions,
           int64 rows, const int64 *wanted, int64 n_wanted, float *logits, int threads);
void copy_slot(const decoder *d, int64 source, int64 target, int64 length);
