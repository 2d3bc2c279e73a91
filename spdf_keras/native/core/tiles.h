// Layouts in bfloat16 that are expanded on the way to dense products in tiles.
//
// AMX multiplies so fast that expanding a kernel's kept values in the cache and multiplying
// their zeros takes less time than skipping zeros one by one. What the zeros save is
// memory: a product reads a bit for each entry and the kept values alone, which keep their
// order, and gradients of other entries are never written.

#ifndef SPDF_TILES_H_
#define SPDF_TILES_H_

#include <cstdint>

namespace spdf {

// Rows and columns of a pair of tiles; blocks start at multiples of it.
constexpr int64_t kTileStep = 32;

// Up to so many tokens, a tile would be mostly empty.
constexpr int64_t kFewTokens = 4;

// A kernel (in, out): a bit for each entry, and the kept values in the order of rows.
struct Compressed {
  int64_t in, out, words;   // a word is the bits of 64 entries of a row
  const uint64_t* bits;
  const uint32_t* starts;   // of each word's values
  const uint16_t* values;   // bfloat16, with 64 bytes behind the last
};

// The loops of tiles. Scratch memory starts at a multiple of 64 bytes, and all tokens are
// bfloat16 with contiguous rows.
struct TileLoops {
  // Rounds float32 values to bfloat16.
  void (*round)(const float* from, int64_t count, uint16_t* to);
  // Expands columns [first, last) for `product`.
  void (*expand_columns)(const Compressed& kernel, int64_t first, int64_t last,
                         uint16_t* tiles);
  // Expands rows [first, last), transposed, for `back`.
  void (*expand_rows)(const Compressed& kernel, int64_t first, int64_t last,
                      uint16_t* tiles);
  // Computes columns [first, last) of y for tokens [token, end).
  void (*product)(const Compressed& kernel, int64_t first, int64_t last,
                  const uint16_t* tiles, const uint16_t* x, const float* bias,
                  int64_t token, int64_t end, uint16_t* room, uint16_t* y);
  // Computes columns [first, last) of y for up to kFewTokens tokens, without tiles. `first`
  // is a multiple of 64; `room` has (last - first + 64 + in + 8) * tokens floats.
  void (*few)(const Compressed& kernel, int64_t first, int64_t last, const uint16_t* x,
              const float* bias, int64_t tokens, float* room, uint16_t* y);
  // Computes columns [first, last) of dx for tokens [token, end).
  void (*back)(const Compressed& kernel, int64_t first, int64_t last,
               const uint16_t* tiles, const uint16_t* dy, int64_t token, int64_t end,
               uint16_t* room, uint16_t* dx);
  // Orders 32 tokens for `gradient`: `step` is the index of the 32 among `steps`. Tokens
  // from `count` on are zeros.
  void (*order_x)(const uint16_t* x, int64_t columns, int64_t count, int64_t step,
                  int64_t steps, uint16_t* tiles);
  void (*order_dy)(const uint16_t* dy, int64_t columns, int64_t count, int64_t step,
                   int64_t steps, uint16_t* tiles);
  // Computes the gradient of the kept values of rows [first, last), or adds to it.
  void (*gradient)(const Compressed& kernel, int64_t first, int64_t last,
                   const uint16_t* x_tiles, const uint16_t* dy_tiles, int64_t steps,
                   bool adds, float* gradient);
};

// Returns the loops, or NULL where the processor has none. A weak symbol: a compiler that
// does not know the instructions leaves them out.
__attribute__((weak)) const TileLoops* tile_loops();

// Returns the same unless a limit of instruction sets forbids them.
const TileLoops* tiles_in_use();

}  // namespace spdf

#endif  // SPDF_TILES_H_
