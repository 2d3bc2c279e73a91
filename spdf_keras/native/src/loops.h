// What the loops of all instruction sets share: the structure of a mask.

#ifndef SPDF_LOOPS_H_
#define SPDF_LOOPS_H_

#include <cstdint>

namespace spdf {

// The most columns of a block: a place in it fits a byte.
constexpr int64_t kMaxBlock = 192;
// Groups of four rows that are copied together between a weight and its values.
constexpr int64_t kPanel = 8;
// Sets of rows, of four, that may share a column; the empty set is not stored.
constexpr int64_t kPatterns = 15;

// The places of a mask `(rows, columns)`, by block of columns, then by four rows.
//
// Inside, columns are sorted by which of the four rows have them, from all four down
// to the first alone. Values lie in the same order, the rows of a column together.
struct Structure {
  int64_t rows, columns, groups, block, blocks, size;
  // How the dense weight is stored; one of the two is 1.
  int64_t row_stride, column_stride;
  // Columns of each set of rows, `(blocks, groups, kPatterns)`.
  const uint8_t* counts;
  // Their places in the block.
  const uint8_t* places;
  // Where each value lies in the copy of its panel, `(size,)`; see `panel_offset`.
  const uint16_t* offsets;
  // The first value and place of each `(blocks, groups)`.
  const uint32_t* value_starts;
  const uint32_t* place_starts;
};

// Where a panel's copy has row `row` and column `k` of its block: the lines of the
// weight stay lines.
inline int64_t panel_offset(const Structure& s, int64_t row, int64_t k) {
  return s.row_stride == 1 ? k * 4 * kPanel + row : row * kMaxBlock + k;
}

// The loops for one instruction set.
struct Loops {
  const char* name;
  // Tokens of a tile.
  int64_t tile;
  // Tokens `(count, columns)`, a row every `stride`, to a tile `(columns, tile)`.
  void (*pack)(const float* x, int64_t columns, int64_t stride, int64_t count,
               float* tile);
  // A tile to tokens `(count, columns)`, plus a bias per column where it is given.
  void (*unpack)(const float* tile, int64_t columns, int64_t stride, int64_t count,
                 const float* bias, float* y);
  // `y` `(4 * (last - first), tile)` becomes the product of the weight's groups
  // `[first, last)` and `x` `(columns, tile)`.
  void (*product)(const Structure& s, int64_t first, int64_t last, const float* values,
                  const float* x, float* y);
  // Adds to each value of groups `[first, last)` the products of its row of `dy`
  // `(tiles, 4 * groups, tile)` and its column of `x` `(tiles, columns, tile)`, summed
  // over all tokens.
  void (*gradient)(const Structure& s, int64_t first, int64_t last, int64_t tiles,
                   const float* x, const float* dy, float* values);
};

const Loops* portable_loops();
const Loops* avx2_loops();
const Loops* avx512_loops();

}  // namespace spdf

#endif  // SPDF_LOOPS_H_
