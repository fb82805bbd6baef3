/* The instructions of AMX that the kernels use, made of AVX-512: their code can be tested without AMX. */

#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __AVX512BF16__

#define __AMX_BF16__
#define syscall(...) 0 /* the system has nothing to allow */

static __thread unsigned char tile_data[8][16][64];

static inline void load_tile(int t, const char *from, long stride) {
    for (int i = 0; i < 16; i++) memcpy(tile_data[t][i], from + i * stride, 64);
}

static inline void store_tile(int t, char *to, long stride) {
    for (int i = 0; i < 16; i++) memcpy(to + i * stride, tile_data[t][i], 64);
}

static inline void multiply_tiles(int out, int left, int right) {
    for (int i = 0; i < 16; i++) {
        __m512 row = _mm512_loadu_ps(tile_data[out][i]);
        for (int k = 0; k < 16; k++) {
            int two;
            memcpy(&two, tile_data[left][i] + 4 * k, sizeof two);
            row = _mm512_dpbf16_ps(row, (__m512bh)_mm512_set1_epi32(two),
                                   (__m512bh)_mm512_loadu_si512(tile_data[right][k]));
        }
        _mm512_storeu_ps(tile_data[out][i], row);
    }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) (void)(config)
#define _tile_storeconfig(config) memset(config, 0, 64)
#define _tile_release() (void)0
#define _tile_loadd(t, from, stride) load_tile(t, (const char *)(from), stride)
#define _tile_stored(t, to, stride) store_tile(t, (char *)(to), stride)
#define _tile_zero(t) memset(tile_data[t], 0, sizeof tile_data[t])
#define _tile_dpbf16ps(out, left, right) multiply_tiles(out, left, right)

#endif
