// A kernel's kept values, laid out for products with one set of instructions.

#ifndef SPDF_LAYOUT_H_
#define SPDF_LAYOUT_H_

#include <cstdint>
#include <memory>

#include "mask.h"
#include "masked.h"
#include "tiles.h"

// See spdf_layout_product and spdf_layout_gradients for the arguments.
struct spdf_layout {
  virtual ~spdf_layout() = default;
  virtual void product(const void* x, const float* bias, int64_t tokens, void* y,
                       spdf_parallel parallel, void* pool, int64_t threads) const = 0;
  virtual void gradients(const void* x, const void* dy, int64_t tokens, void* dx,
                         float* gradient, spdf_parallel parallel, void* pool,
                         int64_t threads) const = 0;
};

namespace spdf {

using OwnedLayout = std::unique_ptr<spdf_layout>;

// Lays values out in regions, for the loops of float32. In SPDF_BFLOAT16 values are
// rounded, and activations are widened and rounded on the way to tiles and back.
OwnedLayout lay_out_regions(const spdf_mask& mask, const float* kept, spdf_type type,
                            int uses, spdf_parallel parallel, void* pool);

// Lays values out in bfloat16, to be expanded on the way to tiles.
OwnedLayout lay_out_tiles(const spdf_mask& mask, const float* kept, const TileLoops& loops,
                          spdf_parallel parallel, void* pool);

// Lays values out in pairs of bfloat16, for products in SPDF_BFLOAT16 where the processor
// has `paired_loops`.
OwnedLayout lay_out_pairs(const spdf_mask& mask, const float* kept, int uses,
                          spdf_parallel parallel, void* pool);

}  // namespace spdf

#endif  // SPDF_LAYOUT_H_
