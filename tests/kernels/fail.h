/* Allocations that can be made to fail, and are counted. */

#include <malloc.h>
#include <stdlib.h>

/* weak: one variable for all files that include this */
__attribute__((weak)) int calls, fail_at,
    live; /* allocations so far, the one that fails, not freed */

static inline void *counted(void *memory) {
    if (++calls == fail_at) {
        free(memory);
        return NULL;
    }
    live++;
    return memory;
}

static inline void counted_free(void *memory) {
    live -= memory != NULL;
    free(memory);
}

#define malloc(size) counted(malloc(size))
#define calloc(n, size) counted(calloc(n, size))
#define aligned_alloc(alignment, size) counted(aligned_alloc(alignment, size))
#define free(memory) counted_free(memory)
