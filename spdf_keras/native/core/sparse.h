// What all parts of the library share, in plain C: threads and instruction sets.

#ifndef SPDF_SPARSE_H_
#define SPDF_SPARSE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Runs `body(argument, i)` for every i in [0, count) on threads of the caller's; NULL runs
// it on the calling thread.
typedef void (*spdf_parallel)(void* pool, int64_t count,
                              void (*body)(void* argument, int64_t i), void* argument);

// Returns the instruction set in use: amx, bf16 (AVX-512 with bfloat16), avx512, avx2 or
// portable. Unless `limit` is NULL, no better set than `limit` is used from now on.
const char* spdf_instruction_set(const char* limit);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_SPARSE_H_
