// Products of few tokens with a dense weight, without gradients, in plain C.
//
// A general product copies the weight into an order of its own in each call. For few
// tokens that takes as long as the product, so here the weight comes in that order.

#ifndef SPDF_DENSE_H_
#define SPDF_DENSE_H_

#include <stdint.h>

#include "sparse.h"

// Outputs of a tile of the weight.
#define SPDF_DENSE_TILE 12

#ifdef __cplusplus
extern "C" {
#endif

// Copies a weight (in, out), or (out, in) if `transposed`, to tiles (ceil(out /
// SPDF_DENSE_TILE), in, SPDF_DENSE_TILE), all float32; outputs behind the last are 0.
void spdf_dense_tiles(const float* weight, int transposed, int64_t in, int64_t out,
                      float* tiles, spdf_parallel parallel, void* pool);

// Computes y = x @ weight + bias, all float32. `x` is (tokens, in), `tiles` (ceil(out /
// SPDF_DENSE_TILE), in, SPDF_DENSE_TILE) and `y` (tokens, out); `bias` may be NULL.
void spdf_dense_product(const float* tiles, const float* x, const float* bias,
                        int64_t tokens, int64_t in, int64_t out, float* y,
                        spdf_parallel parallel, void* pool, int64_t threads);

// Finds the `best` largest of `count` numbers in falling order, and the lower index first
// of two that are equal. Returns the logarithm of the sum of all exponentials.
float spdf_best(const float* x, int64_t count, int64_t best, float* values,
                int32_t* indices);

#ifdef __cplusplus
}

namespace spdf {

// The loops of one instruction set.
struct DenseLoops {
  // Number of tokens of a vector.
  int64_t lanes;
  // Computes a tile times one or two vectors of tokens: `x` is (in, vectors * lanes), and
  // `sums` becomes (SPDF_DENSE_TILE, vectors * lanes).
  void (*product)(const float* tile, int64_t in, const float* x, int64_t vectors,
                  float* sums);
  // Returns the largest of `count` numbers, a multiple of 16.
  float (*largest)(const float* x, int64_t count);
  // Returns the sum of the exponentials of `count` numbers, a multiple of 16, minus
  // `largest`, which is no smaller than any of them.
  float (*exponentials)(const float* x, int64_t count, float largest);
};

const DenseLoops* portable_dense_loops();
const DenseLoops* avx2_dense_loops();
const DenseLoops* avx512_dense_loops();

}  // namespace spdf
#endif

#endif  // SPDF_DENSE_H_
