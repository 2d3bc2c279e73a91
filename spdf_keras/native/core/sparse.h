// Products with an unstructured sparse weight, in plain C.
//
// All arrays are float32 with contiguous rows. `x` is (tokens, columns), the weight is
// (rows, columns) and zero outside its mask, and `y = x @ weight.T` is (tokens, rows).
// Strides say whether the weight is stored by row or by column.

#ifndef SPDF_SPARSE_H_
#define SPDF_SPARSE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spdf_structure spdf_structure;

// Runs `body(argument, i)` for every i in [0, count) on threads of the caller's; NULL runs
// it on the calling thread.
typedef void (*spdf_parallel)(void* pool, int64_t count,
                              void (*body)(void* argument, int64_t i), void* argument);

// Returns the structure of a mask (rows, columns), whose entry (i, j) is
// mask[i * row_stride + j * column_stride]; one stride must be 1. Returns NULL if no
// stride is 1, a size is not positive, or the mask has 2^31 entries or more.
spdf_structure* spdf_structure_create(const uint8_t* mask, int64_t rows,
                                      int64_t columns, int64_t row_stride,
                                      int64_t column_stride, spdf_parallel parallel,
                                      void* pool);
void spdf_structure_free(spdf_structure* structure);
// Returns the number of its values: the kept entries of the mask, and fillers.
int64_t spdf_structure_size(const spdf_structure* structure);

// Gathers the values of a dense weight, which is stored like the mask, in the order of
// the structure; fillers are zero.
void spdf_gather(const spdf_structure* structure, const float* weight, float* values,
                 spdf_parallel parallel, void* pool);

// Computes y = x @ weight.T + bias; `bias` may be NULL.
void spdf_product(const spdf_structure* structure, const float* values, const float* x,
                  const float* bias, int64_t tokens, float* y, spdf_parallel parallel,
                  void* pool, int64_t threads);

// Computes both gradients of spdf_product. `forward` is its structure, `transposed` the
// structure of the weight's transpose, and `transposed_values` are in the order of the
// latter. `dx` is (tokens, columns); `gradient` is stored like the weight, and zero
// outside the mask. `sums` is scratch memory for the values of `forward`.
void spdf_gradients(const spdf_structure* forward, const spdf_structure* transposed,
                    const float* transposed_values, const float* x, const float* dy,
                    int64_t tokens, float* dx, float* gradient, float* sums,
                    spdf_parallel parallel, void* pool, int64_t threads);

// Returns the instruction set in use: avx512, avx2 or portable. Unless `limit` is NULL,
// no better set than `limit` is used from now on.
const char* spdf_instruction_set(const char* limit);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_SPARSE_H_
