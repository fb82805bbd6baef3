/* AVX-512 intrinsics that the kernels use, in GCC vectors: their code is tested on any x86-64 CPU. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef __AVX512BF16__

#define __AVX512BF16__

typedef float f16v __attribute__((vector_size(64)));
typedef int32_t i32v __attribute__((vector_size(64)));
typedef uint32_t u32v __attribute__((vector_size(64)));
typedef int64_t i64v __attribute__((vector_size(64)));
typedef uint16_t u16v __attribute__((vector_size(64)));

#define __m512 f16v
#define __m512i i64v
#define __m512bh u16v
#define __mmask16 uint16_t
#define __mmask32 uint32_t
/* gcc would take minutes if all of this, and the kernels, were inlined */
#define EMU static __attribute__((unused, noinline))
#define INLINE static __attribute__((unused, noinline))

EMU f16v emu_set1(float x) { return (f16v){} + x; }
EMU f16v emu_fma(f16v a, f16v b, f16v c) {
    for (int i = 0; i < 16; i++) a[i] = fmaf(a[i], b[i], c[i]);
    return a;
}
EMU f16v emu_max(f16v from, uint16_t mask, f16v a, f16v b) {
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) from[i] = a[i] > b[i] ? a[i] : b[i];
    return from;
}
EMU float emu_sum(f16v x) {
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
}
EMU float emu_largest(f16v x) {
    float largest = x[0];
    for (int i = 1; i < 16; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}
EMU f16v emu_fraction(f16v x) {
    for (int i = 0; i < 16; i++) x[i] -= floorf(x[i]);
    return x;
}
EMU f16v emu_scale(f16v x, f16v by) {
    for (int i = 0; i < 16; i++)
        x[i] = isnan(by[i]) ? by[i] : ldexpf(x[i], (int)floorf(fmaxf(fminf(by[i], 1000), -1000)));
    return x;
}
EMU f16v emu_keep(uint16_t mask, f16v x) {
    for (int i = 0; i < 16; i++) x[i] = mask >> i & 1 ? x[i] : 0;
    return x;
}
/* masked loads and stores touch no element that the mask leaves out */
EMU f16v emu_load_floats(uint16_t mask, const float *from) {
    f16v x = {};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) x[i] = from[i];
    return x;
}
EMU void emu_store_floats(float *to, uint16_t mask, f16v x) {
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) to[i] = x[i];
}
EMU i64v emu_load_halves(uint32_t mask, const uint16_t *from) {
    u16v x = {};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) x[i] = from[i];
    return (i64v)x;
}
EMU void emu_store_halves(uint16_t *to, uint32_t mask, i64v x) {
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) to[i] = ((u16v)x)[i];
}
EMU i64v emu_load(const void *from) {
    i64v x;
    memcpy(&x, from, sizeof x);
    return x;
}
EMU void emu_store(void *to, i64v x) { memcpy(to, &x, sizeof x); }
EMU i64v emu_widen(i64v halves) {
    i32v x;
    for (int i = 0; i < 16; i++) x[i] = ((u16v)halves)[i];
    return (i64v)x;
}
EMU uint16_t emu_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
EMU u16v emu_round_two(f16v high, f16v low) {
    u16v x;
    for (int i = 0; i < 16; i++) x[i] = emu_round(low[i]), x[i + 16] = emu_round(high[i]);
    return x;
}
EMU f16v emu_dot(f16v sum, u16v a, u16v b) {
    u32v x = (u32v)a, y = (u32v)b;
    sum += (f16v)(x & 0xffff0000) * (f16v)(y & 0xffff0000);
    return sum + (f16v)(x << 16) * (f16v)(y << 16);
}
EMU i64v emu_pick_halves(i64v a, i64v index, i64v b) {
    u16v x;
    for (int i = 0; i < 32; i++) {
        int k = ((u16v)index)[i] & 63;
        x[i] = k < 32 ? ((u16v)a)[k] : ((u16v)b)[k - 32];
    }
    return (i64v)x;
}

#undef _mm512_set_epi16
#undef _mm512_reduce_ps
#undef _mm512_shuffle_i32x4
#undef _mm512_slli_epi32
#undef _mm_prefetch
#undef _MM_HINT_ET0
#define _MM_HINT_ET0 7
#define _mm_prefetch(address, hint) __builtin_prefetch(address)
#define _mm512_set1_ps(x) emu_set1(x)
#define _mm512_setzero_ps() ((f16v){})
#define _mm512_setzero_si512() ((i64v){})
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_fmadd_ps(a, b, c) emu_fma(a, b, c)
#define _mm512_fmsub_ps(a, b, c) emu_fma(a, b, -(c))
#define _mm512_fnmadd_ps(a, b, c) emu_fma(-(a), b, c)
#define _mm512_rcp14_ps(x) (1 / (x))
#define _mm512_mask_max_ps(from, mask, a, b) emu_max(from, mask, a, b)
#define _mm512_max_ps(a, b) emu_max(a, 0xffff, a, b)
#define _mm512_reduce_add_ps(x) emu_sum(x)
#define _mm512_reduce_max_ps(x) emu_largest(x)
#define _mm512_reduce_ps(x, how) emu_fraction(x)
#define _mm512_scalef_ps(x, by) emu_scale(x, by)
#define _mm512_maskz_mov_ps(mask, x) emu_keep(mask, x)
#define _mm512_load_ps(from) emu_load_floats(0xffff, from)
#define _mm512_loadu_ps(from) emu_load_floats(0xffff, (const float *)(from))
#define _mm512_maskz_loadu_ps(mask, from) emu_load_floats(mask, from)
#define _mm512_storeu_ps(to, x) emu_store_floats((float *)(to), 0xffff, x)
#define _mm512_mask_storeu_ps(to, mask, x) emu_store_floats(to, mask, x)
#define _mm512_loadu_si512(from) emu_load(from)
#define _mm512_storeu_si512(to, x) emu_store(to, x)
#define _mm512_stream_si512(to, x) emu_store(to, x)
#define _mm512_maskz_loadu_epi16(mask, from) emu_load_halves(mask, from)
#define _mm256_maskz_loadu_epi16(mask, from) emu_load_halves(mask, from)
#define _mm512_mask_storeu_epi16(to, mask, x) emu_store_halves(to, mask, x)
#define _mm512_cvtepu16_epi32(x) emu_widen(x)
#define _mm512_castsi512_ps(x) ((f16v)(x))
#define _mm512_slli_epi32(x, n) ((i64v)((u32v)(x) << (n)))
#define _mm512_cvtne2ps_pbh(high, low) emu_round_two(high, low)
#define _mm512_dpbf16_ps(sum, a, b) emu_dot(sum, a, b)
#define _mm512_set1_epi16(x) ((i64v)((u16v){} + (uint16_t)(x)))
#define _mm512_set1_epi32(x) ((i64v)((i32v){} + (x)))
#define _mm512_add_epi16(a, b) ((i64v)((u16v)(a) + (u16v)(b)))
#define _mm512_set_epi16(a31, a30, a29, a28, a27, a26, a25, a24, a23, a22, a21, a20, a19, a18,    \
                         a17, a16, a15, a14, a13, a12, a11, a10, a9, a8, a7, a6, a5, a4, a3, a2,  \
                         a1, a0)                                                                  \
    ((i64v)(u16v){a0,  a1,  a2,  a3,  a4,  a5,  a6,  a7,  a8,  a9,  a10, a11, a12, a13, a14, a15, \
                  a16, a17, a18, a19, a20, a21, a22, a23, a24, a25, a26, a27, a28, a29, a30, a31})
#define _mm512_permutex2var_epi16(a, index, b) emu_pick_halves(a, index, b)
#define SHUFFLE32(a, b, ...) ((i64v)__builtin_shuffle((i32v)(a), (i32v)(b), (i32v){__VA_ARGS__}))
#define SHUFFLE64(a, b, ...) ((i64v)__builtin_shuffle((i64v)(a), (i64v)(b), (i64v){__VA_ARGS__}))
#define _mm512_unpacklo_epi32(a, b) \
    SHUFFLE32(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define _mm512_unpackhi_epi32(a, b) \
    SHUFFLE32(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define _mm512_unpacklo_epi64(a, b) SHUFFLE64(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define _mm512_unpackhi_epi64(a, b) SHUFFLE64(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
/* lane l of the first operand: its 4 numbers; two lanes of a, then two of b */
#define LANE(c, i) (2 * ((c) >> 2 * (i) & 3))
#define _mm512_shuffle_i32x4(a, b, c)                                                       \
    SHUFFLE64(a, b, LANE(c, 0), LANE(c, 0) + 1, LANE(c, 1), LANE(c, 1) + 1, LANE(c, 2) + 8, \
              LANE(c, 2) + 9, LANE(c, 3) + 8, LANE(c, 3) + 9)

#endif
