/* Decodes with models of all parts on arrays of exactly the size it may touch: see sanitize.c. */

#include "decode.h"

static uint32_t state = 1;
static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1;
}

static void *made[512];
static int n_made;
static void *keep(void *memory) {
    if (!memory || n_made == 512) abort();
    return made[n_made++] = memory;
}
static float *floats(int64 size) {
    float *x = keep(malloc((size_t)size * sizeof *x));
    for (int64 i = 0; i < size; i++) x[i] = noise();
    return x;
}
static float *zeros(int64 size) { return keep(calloc((size_t)size, sizeof(float))); }
static norm_parameters norm(int64 width) {
    return (norm_parameters){floats(width), floats(width)};
}
static matrix packed(int64 outs, int64 depth, int64 format, int threads) {
    int64 block = outs_per_block(), padded = (outs + block - 1) / block * block;
    float *w = floats(outs * depth), *scales = format == INT8 ? floats(padded) : NULL;
    void *weights = keep(malloc((size_t)packed_bytes(outs, depth, format)));
    pack_matrix(w, outs, depth, format, weights, scales, threads);
    return (matrix){weights, scales, floats(padded), outs, depth};
}

enum { VOCABULARY = 37, CAPACITY = 41, SLOTS = 3, LAYERS = 2, TABLES = 2 };

static void run(int64 format, int64 feedforward, int64 heads, int64 kv_heads, int64 width,
                int64 window, int all, int threads) {
    int64 c = heads * width, kv = kv_heads * width, d_ff = 2 * c + 3, half = outs_per_block() / 2;
    int64 up = feedforward == SWIGLU ? (d_ff + half - 1) / half * 2 * half : d_ff;
    decoder_layer layers[LAYERS];
    for (int i = 0; i < LAYERS; i++)
        layers[i] = (decoder_layer){
            .attention_norm = norm(c),
            .attention_post_norm = norm(c),
            .q_norm = norm(width),
            .k_norm = norm(width),
            .mlp_norm = norm(c),
            .mlp_post_norm = norm(c),
            .qkv = packed(c + 2 * kv, c, format, threads),
            .out = packed(c, c, format, threads),
            .up = packed(up, c, format, threads),
            .down = packed(c, d_ff, format, threads),
            .shortcut = all ? floats(2) : NULL,
            .value_mix = all && i ? floats(2) : NULL,
            .value_embedding = all && i ? floats(VOCABULARY * kv) : NULL,
            .value_gate = floats(kv_heads * 5),
        };
    decoder d = {
        .n_layer = LAYERS,
        .n_head = heads,
        .n_kv_head = kv_heads,
        .d_model = c,
        .d_head = width,
        .d_ff = d_ff,
        .vocab_size = VOCABULARY,
        .n_slots = SLOTS,
        .capacity = CAPACITY,
        .window = window,
        .n_tables = all ? TABLES : 0,
        .table_rows = 11,
        .gate_width = 5,
        .format = format,
        .feedforward = feedforward,
        .rms = all,
        .embedding_normed = all,
        .qk_normed = all,
        .post_normed = all,
        .eps = 1e-5f,
        .softcap = all ? 15 : 0,
        .token_embedding = floats(VOCABULARY * c),
        .position_embedding = all ? NULL : floats(CAPACITY * c),
        .cosines = all ? floats(CAPACITY * (width / 2)) : NULL,
        .sines = all ? floats(CAPACITY * (width / 2)) : NULL,
        .embedding_norm = norm(c),
        .norm = norm(c),
        .head = packed(VOCABULARY, c, format, threads),
        .layers = layers,
        .history = keep(calloc(SLOTS * CAPACITY, sizeof(int64))),
    };
    for (int t = 0; t < TABLES; t++) d.tables[t] = floats(11 * c);
    int64 keys, values;
    cache_sizes(&d, &keys, &values);
    d.keys = zeros(keys);
    d.values = zeros(values);
    int64 n = CAPACITY - 1, *tokens = keep(malloc((size_t)n * sizeof *tokens));
    int64 *slots = keep(malloc((size_t)n * sizeof *slots));
    int64 *positions = keep(malloc((size_t)n * sizeof *positions)), last = n - 1;
    float *logits = floats(VOCABULARY);
    for (int64 i = 0; i < n; i++) tokens[i] = i % VOCABULARY, slots[i] = 1, positions[i] = i;
    if (decode(&d, tokens, slots, positions, n, &last, 1, logits, threads)) abort();
    copy_slot(&d, 1, 2, n);
    int64 one[] = {0, 1, 2}, at[] = {0, n, n};
    float *three = floats(3 * VOCABULARY);
    if (decode(&d, one, one, at, 3, one, 3, three, threads)) abort();
    tokens[0] = VOCABULARY;
    if (decode(&d, tokens, slots, positions, 1, &last, 0, logits, threads) != OUT_OF_RANGE) abort();
    while (n_made) free(made[--n_made]);
}

int main(void) {
    for (int threads = 1; threads <= 3; threads += 2)
        for (int format = FP32; format <= INT8; format++) {
            run(format, GELU, 3, 3, 5, 0, 0, threads);
            run(format, SWIGLU, 8, 1, 6, 4, 1, threads);
            run(format, RELU2, 2, 1, 20, 0, 1, threads);
        }
    run(FP32, GELU_ERF, 1, 1, 1, 1, 0, 2);
    return 0;
}
