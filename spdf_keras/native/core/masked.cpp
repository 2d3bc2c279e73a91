// The plain C functions of masked kernels: they choose how a kernel is laid out.

#include "masked.h"

#include "layout.h"

extern "C" {

spdf_layout* spdf_lay_out(const spdf_mask* mask, const float* kept, spdf_type type,
                          int uses, spdf_parallel parallel, void* pool) {
  if (type != SPDF_FLOAT32 && type != SPDF_BFLOAT16) return nullptr;
  if (type == SPDF_BFLOAT16)
    if (const spdf::TileLoops* loops = spdf::tiles_in_use())
      return spdf::lay_out_tiles(*mask, kept, *loops, parallel, pool).release();
  if (type == SPDF_BFLOAT16 && spdf::pairs_in_use())
    return spdf::lay_out_pairs(*mask, kept, uses, parallel, pool).release();
  return spdf::lay_out_regions(*mask, kept, type, uses, parallel, pool).release();
}

void spdf_layout_free(spdf_layout* layout) { delete layout; }

void spdf_layout_product(const spdf_layout* layout, const void* x, const float* bias,
                 int64_t tokens, void* y, spdf_parallel parallel, void* pool,
                 int64_t threads) {
  layout->product(x, bias, tokens, y, parallel, pool, threads);
}

void spdf_layout_gradients(const spdf_layout* layout, const void* x, const void* dy,
                           int64_t tokens, void* dx, float* gradient,
                           spdf_parallel parallel, void* pool, int64_t threads) {
  layout->gradients(x, dy, tokens, dx, gradient, parallel, pool, threads);
}

}
