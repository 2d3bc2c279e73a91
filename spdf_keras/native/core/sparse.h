// Products with an unstructured sparse weight, in plain C.
//
// All arrays are float32, rows contiguous. `x` is (tokens, columns), `y` is
// (tokens, rows): `y = x @ weight.T`, the weight being (rows, columns), zero outside
// its mask. Strides let a weight be stored either way.

#ifndef SPDF_SPARSE_H_
#define SPDF_SPARSE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spdf_structure spdf_structure;

// Runs `body(argument, i)` for every i in [0, count), on threads of its own.
typedef void (*spdf_parallel)(void* pool, int64_t count,
                              void (*body)(void* argument, int64_t i), void* argument);

// Sorts the places of a mask (rows, columns), whose entry (i, j) is
// mask[i * row_stride + j * column_stride]; one stride must be 1. NULL if none is, a
// size is not positive, or there are 2^31 entries or more.
spdf_structure* spdf_structure_create(const uint8_t* mask, int64_t rows,
                                      int64_t columns, int64_t row_stride,
                                      int64_t column_stride, spdf_parallel parallel,
                                      void* pool);
void spdf_structure_free(spdf_structure* structure);
// How many values it has: the entries that the mask keeps, and fillers.
int64_t spdf_structure_size(const spdf_structure* structure);

// The values of a dense weight, stored as the mask was, in their order; fillers are zero.
void spdf_gather(const spdf_structure* structure, const float* weight, float* values,
                 spdf_parallel parallel, void* pool);

// y = x @ weight.T + bias; `bias` may be NULL.
void spdf_product(const spdf_structure* structure, const float* values, const float* x,
                  const float* bias, int64_t tokens, float* y, spdf_parallel parallel,
                  void* pool, int64_t threads);

// Both gradients of spdf_product. `forward` is its structure, `transposed` that of the
// weight's transpose, with values of its own order. `dx` is (tokens, columns);
// `gradient` is stored as the weight, and zero outside the mask. `sums` is room for the
// values of `forward`.
void spdf_gradients(const spdf_structure* forward, const spdf_structure* transposed,
                    const float* transposed_values, const float* x, const float* dy,
                    int64_t tokens, float* dx, float* gradient, float* sums,
                    spdf_parallel parallel, void* pool, int64_t threads);

// The instruction set in use: avx512, avx2 or portable; `limit` forbids better ones.
const char* spdf_instruction_set(const char* limit);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_SPARSE_H_
