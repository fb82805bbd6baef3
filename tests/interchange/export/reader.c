/* Writes greedy text from an export to=llama2c, as llama2.c's run does: a reading of the two files that
shares no code with the package.  Usage: reader model.bin tokenizer.bin steps prompt */

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN, BEGIN, END, FIRST_BYTE, MOST_IDS = 4096 };

static int32_t dim, hidden, layers, heads, kv_heads, vocab, seq_len;
static char **texts;
static float *scores;

static void *all_of(const char *path, long *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(2);
    *size = ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    if (fread(data, 1, *size, file) != (size_t)*size) exit(2);
    fclose(file);
    return data;
}

static void read_tokenizer(const char *path) {
    long size;
    char *at = all_of(path, &size), *end = at + size;
    at += 4; /* the longest length */
    texts = malloc(vocab * sizeof *texts), scores = malloc(vocab * sizeof *scores);
    for (int i = 0; i < vocab; i++) {
        int32_t length;
        memcpy(&scores[i], at, 4), memcpy(&length, at + 4, 4);
        texts[i] = strndup(at + 8, length);
        at += 8 + length;
    }
    if (at != end) exit(3);
}

static int id_of(const char *text) {
    for (int i = 0; i < vocab; i++)
        if (!strcmp(texts[i], text)) return i;
    return -1;
}

static int encode(const char *prompt, int *ids) {
    int n = 0;
    ids[n++] = BEGIN;
    if (*prompt) ids[n++] = id_of(" ");
    for (const char *c = prompt; *c;) { /* one UTF-8 character at a time */
        char one[5] = {0};
        int length = 1;
        while ((c[length] & 0xc0) == 0x80 && length < 4) length++;
        memcpy(one, c, length);
        int id = id_of(one);
        if (id >= 0) ids[n++] = id;
        for (int b = 0; id < 0 && b < length; b++) ids[n++] = FIRST_BYTE + (unsigned char)c[b];
        c += length;
    }
    for (;;) { /* the best merge first */
        int best = -1, at = 0;
        for (int i = 0; i + 1 < n; i++) {
            char pair[1024];
            snprintf(pair, sizeof pair, "%s%s", texts[ids[i]], texts[ids[i + 1]]);
            int id = id_of(pair);
            if (id >= 0 && (best < 0 || scores[id] > scores[best])) best = id, at = i;
        }
        if (best < 0) return n;
        ids[at] = best;
        memmove(ids + at + 1, ids + at + 2, (n-- - at - 2) * sizeof *ids);
    }
}

static void multiply(float *out, const float *w, const float *x, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int c = 0; c < columns; c++) sum += (double)w[r * columns + c] * x[c];
        out[r] = (float)sum;
    }
}

static void norm(float *out, const float *x, const float *gain) {
    double squares = 0;
    for (int i = 0; i < dim; i++) squares += (double)x[i] * x[i];
    for (int i = 0; i < dim; i++) out[i] = (float)(x[i] / sqrt(squares / dim + 1e-5)) * gain[i];
}

static void rotate(float *x, int width, int position) { /* neighbouring components */
    int d = dim / heads;
    for (int i = 0; i < width; i += 2) {
        double angle = position * pow(10000, -(double)(i % d) / d), c = cos(angle), s = sin(angle);
        float a = x[i], b = x[i + 1];
        x[i] = (float)(a * c - b * s), x[i + 1] = (float)(a * s + b * c);
    }
}

int main(int argc, char **argv) {
    long size;
    float *w = all_of(argv[1], &size);
    int32_t *sizes = (int32_t *)w;
    dim = sizes[0], hidden = sizes[1], layers = sizes[2], heads = sizes[3], kv_heads = sizes[4];
    vocab = abs(sizes[5]), seq_len = sizes[6];
    read_tokenizer(argv[2]);
    int d = dim / heads, kv = kv_heads * d, ids[MOST_IDS], n = encode(argv[4], ids);
    const float *at = w + 7;
#define TAKE(name, count) const float *name = at; at += (long)(count);
    TAKE(table, (long)vocab * dim)
    TAKE(norm1, layers * dim)
    TAKE(wq, layers * dim * dim)
    TAKE(wk, layers * dim * kv)
    TAKE(wv, layers * dim * kv)
    TAKE(wo, layers * dim * dim)
    TAKE(norm2, layers * dim)
    TAKE(gate, layers * hidden * dim)
    TAKE(down, layers * hidden * dim)
    TAKE(up, layers * hidden * dim)
    TAKE(last, dim)
    TAKE(unused, seq_len * d)
    (void)unused;
    const float *head = sizes[5] > 0 ? table : at;
    if (argc != 5 || (sizes[5] > 0 ? at : at + (long)vocab * dim) != w + size / 4) return 4;
    float *keys = calloc((long)layers * seq_len * kv, 4), *values = calloc((long)layers * seq_len * kv, 4);
    float x[dim], y[dim], q[dim], mixed[dim], g[hidden], u[hidden], logits[vocab];
    double weights[seq_len];
    int steps = atoi(argv[3]), token = ids[0];
    for (int t = 0; t < steps && t < seq_len; t++) {
        memcpy(x, table + (long)token * dim, sizeof x);
        for (int l = 0; l < layers; l++) {
            float *k = keys + ((long)l * seq_len + t) * kv, *v = values + ((long)l * seq_len + t) * kv;
            norm(y, x, norm1 + l * dim);
            multiply(q, wq + l * dim * dim, y, dim, dim);
            multiply(k, wk + l * dim * kv, y, kv, dim);
            multiply(v, wv + l * dim * kv, y, kv, dim);
            rotate(q, dim, t), rotate(k, kv, t);
            memset(mixed, 0, sizeof mixed);
            for (int h = 0; h < heads; h++) {
                int first = h / (heads / kv_heads) * d;
                double largest = -1e30, sum = 0;
                for (int s = 0; s <= t; s++) {
                    const float *key = keys + ((long)l * seq_len + s) * kv + first;
                    weights[s] = 0;
                    for (int i = 0; i < d; i++) weights[s] += (double)q[h * d + i] * key[i];
                    weights[s] /= sqrt(d);
                    if (weights[s] > largest) largest = weights[s];
                }
                for (int s = 0; s <= t; s++) sum += weights[s] = exp(weights[s] - largest);
                for (int s = 0; s <= t; s++)
                    for (int i = 0; i < d; i++)
                        mixed[h * d + i] += (float)(weights[s] / sum) *
                                            values[((long)l * seq_len + s) * kv + first + i];
            }
            multiply(y, wo + l * dim * dim, mixed, dim, dim);
            for (int i = 0; i < dim; i++) x[i] += y[i];
            norm(y, x, norm2 + l * dim);
            multiply(g, gate + l * hidden * dim, y, hidden, dim);
            multiply(u, up + l * hidden * dim, y, hidden, dim);
            for (int i = 0; i < hidden; i++) g[i] = (float)(g[i] / (1 + exp(-(double)g[i]))) * u[i];
            multiply(y, down + l * hidden * dim, g, dim, hidden);
            for (int i = 0; i < dim; i++) x[i] += y[i];
        }
        norm(y, x, last);
        multiply(logits, head, y, vocab, dim);
        int next = 0;
        for (int i = 1; i < vocab; i++)
            if (logits[i] > logits[next]) next = i;
        if (t + 1 < n) next = ids[t + 1];
        if (next == BEGIN) break;
        const char *text = texts[next];
        if (token == BEGIN && *text == ' ') text++;
        unsigned byte;
        char one[2] = {0};
        if (sscanf(text, "<0x%02X>", &byte) == 1) one[0] = (char)byte, text = one;
        unsigned char c = (unsigned char)*text;
        if (!c || text[1] || isprint(c) || isspace(c)) fputs(text, stdout); /* else not shown */
        token = next;
    }
    return 0;
}
