// What the loops of all instruction sets share: the structure of a mask.

#ifndef SPDF_LOOPS_H_
#define SPDF_LOOPS_H_

#include <cstdint>

namespace spdf {

// The most rows of a region. Their sums stay near while its columns are added.
constexpr int64_t kWindow = 128;
// The most columns of a region: a place in it fits a byte.
constexpr int64_t kMaxBlock = 256;
// Values of a region start at a multiple of this: a vector of any instruction set.
constexpr int64_t kAlign = 16;

// Four rows of a region that are computed together.
struct Group {
  // In the window. One past its last row and further: there is no such row.
  uint16_t rows[4];
  // Steps with a column that the first two rows share and one that the others share.
  uint16_t pairs;
  // Steps with a column for each row.
  uint16_t singles;
};

// The places of a mask `(rows, columns)`, by region: a window of rows and a block of
// columns.
//
// Rows of a region are sorted by how many values they have, and taken in fours: all
// four need the same number of steps then, and loops end where the processor expects.
// Each step has a value of every row. A row with one value less gets a filler, whose
// place is 0 and whose value is 0.
struct Structure {
  int64_t rows, columns, windows, block, blocks;
  // How the dense weight is stored; one of the two is 1.
  int64_t row_stride, column_stride;
  // Where each region starts, `(windows * blocks + 1,)`.
  const uint32_t* value_starts;
  const uint32_t* place_starts;
  const uint32_t* group_starts;
  const Group* groups;
  // Columns of the steps, in the block: two of a pairs step, four of the other.
  const uint8_t* places;
  // Where each value lies in a copy of its region; see `copy_place`.
  const uint16_t* offsets;

  int64_t regions() const { return windows * blocks; }
  int64_t values() const { return value_starts[regions()]; }
  int64_t window_rows(int64_t window) const {
    const int64_t left = rows - window * kWindow;
    return left < kWindow ? left : kWindow;
  }
  int64_t block_columns(int64_t index) const {
    const int64_t left = columns - index * block;
    return left < block ? left : block;
  }
};

// Where a copy of a region has a row and a column: lines of the weight stay lines.
inline int64_t copy_place(const Structure& s, int64_t row, int64_t column) {
  return s.row_stride == 1 ? column * kWindow + row : row * kMaxBlock + column;
}

// Behind the copy, where fillers lie.
constexpr int64_t kCopy = kWindow * kMaxBlock;

// The loops for one instruction set and a number of tokens, the tile. A window's tile
// `(rows + 3, tile)` has room for the rows that its last group lacks.
struct Loops {
  const char* name;
  int64_t tile;
  // The most columns that a block may have.
  int64_t most_columns;
  // Tokens `(count, columns)`, a row every `stride`, to a tile `(columns, tile)`.
  void (*pack)(const float* x, int64_t columns, int64_t stride, int64_t count,
               float* tile);
  // A tile to tokens `(count, columns)`, plus a bias per column where it is given.
  void (*unpack)(const float* tile, int64_t columns, int64_t stride, int64_t count,
                 const float* bias, float* y);
  // `y`, a window's tile, becomes the product of its rows and `x` `(columns, tile)`.
  void (*product)(const Structure& s, int64_t window, const float* values,
                  const float* x, float* y);
  // Adds to each value of a region the products of its row of `dy`, a window's tile,
  // and its column of `x` `(columns, tile)`, summed over the tokens.
  void (*gradient)(const Structure& s, int64_t region, const float* x, const float* dy,
                   float* values);
};

// Loops of an instruction set, by tile, the widest first; the last has no name.
const Loops* portable_loops();
const Loops* avx2_loops();
const Loops* avx512_loops();

// Tokens of the widest tile of the instruction set in use.
int64_t widest_tile();

}  // namespace spdf

#endif  // SPDF_LOOPS_H_
