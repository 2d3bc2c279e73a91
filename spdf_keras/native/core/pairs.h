// Products in bfloat16 that take the kept values of a row two at a time.
//
// Some processors without AMX, such as Zen 4, multiply pairs of bfloat16 and add both
// products to a float32. A vector of inputs interleaves two columns, so each row may have
// pairs of any of its columns.

#ifndef SPDF_PAIRS_H_
#define SPDF_PAIRS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "bit_matrix.h"
#include "loops.h"
#include "sparse.h"

namespace spdf {

// Two rows of a region, which are computed together.
struct PairedGroup {
  // Row index within the window; an index at or above its row count is padding.
  uint16_t rows[2];
  // Number of steps with two columns, which both rows share.
  uint16_t shared;
  // Number of steps with four columns, two for each row.
  uint16_t singles;
};

// One region of a structure, for the loops: the groups up to `last`, and the columns of
// their steps within the block. A step has two values of each of both rows.
struct PairedRegion {
  const PairedGroup *groups, *last;
  const uint8_t* places;
};

// The kept entries of a weight (rows, columns) by region, as in `Structure`. Fillers make
// pairs whole, and rows of a group equally long.
struct PairedStructure {
  int64_t rows, columns, windows, block, blocks;
  // Whether the lines of the mask are columns.
  bool by_column;
  // Start of each region in the arrays below, (windows * blocks + 1,).
  std::vector<uint32_t> step_starts, place_starts, group_starts;
  std::vector<PairedGroup> groups;
  std::vector<uint8_t> places;
  // Index of each value, four for a step, among the kept values of its region in the
  // order of the mask's lines; the index of fillers is the number of those.
  std::vector<uint16_t> offsets;
  // Position among all kept values of those of a region, by line of the mask:
  // (lines, bands + 1), where a band is a window if lines are columns, or else a block.
  std::vector<uint32_t> line_starts;

  int64_t regions() const { return windows * blocks; }
  int64_t window_rows(int64_t window) const {
    const int64_t left = rows - window * kWindow;
    return left < kWindow ? left : kWindow;
  }
  int64_t block_columns(int64_t index) const {
    const int64_t left = columns - index * block;
    return left < block ? left : block;
  }
  PairedRegion region(int64_t index) const {
    return {groups.data() + group_starts[index], groups.data() + group_starts[index + 1],
            places.data() + place_starts[index]};
  }
};

// Builds the structure of a weight whose kept entries are given by line.
std::unique_ptr<const PairedStructure> make_paired(const BitMatrix& kept, bool by_column,
                                                   spdf_parallel parallel, void* pool);

// The loops for one number of tokens, the tile. The order of tokens in a tile of inputs,
// (columns, width), is such that interleaving puts them in their own order; the tile of a
// window, (rows + 1, tile), is float32 in that order and has a padding row.
struct PairedLoops {
  int64_t tile, width;
  // Rounds values to bfloat16: to nearest, and to even between two.
  void (*round)(const float* values, int64_t count, uint16_t* rounded);
  // Transposes tokens (count, columns), whose rows are `stride` apart, into a tile;
  // missing tokens become zeros.
  void (*to_tile)(const uint16_t* x, int64_t columns, int64_t stride, int64_t count,
                  uint16_t* tile);
  // Transposes the tile of a window into tokens (count, columns), adds the bias unless it
  // is NULL, and rounds.
  void (*from_tile)(const float* tile, int64_t columns, int64_t stride, int64_t count,
                    const float* bias, uint16_t* y);
  // Adds the product of a region and its columns `x` of a tile to the tile `y` of its
  // window, or writes it there if this is the first.
  void (*product)(const PairedRegion& region, const uint32_t* pairs, bool is_first,
                  const uint16_t* x, float* y);
  // Adds to `sums`, one for each value of the region, the dot products of the tiles' rows
  // of `dy` and columns of `x`, for up to `kGradientTiles` tiles, which lie apart by
  // strides.
  // Up to 15 floats behind the sums are written too.
  void (*gradient)(const PairedRegion& region, int64_t tiles, const uint16_t* x,
                   int64_t x_stride, const uint16_t* dy, int64_t dy_stride, float* sums);
};

// Adding up the lanes of a vector costs as much as several products, so a sum takes the
// products of so many tiles at once; more would not stay in the first-level cache.
constexpr int64_t kGradientTiles = 2;

// Return the loops, widest tile first, or NULL where the processor does not know their
// instructions; and whether it takes no longer for a product of pairs than for one of
// float32. The last entry of the loops has tile 0. Weak symbols: a compiler that does not
// know the instructions leaves them out.
__attribute__((weak)) const PairedLoops* bf16_loops();
__attribute__((weak)) bool bf16_is_fast();

// Returns the loops, or NULL where there are none.
const PairedLoops* paired_loops();

// Returns whether products in pairs are faster here than the loops of float32.
bool pairs_pay();

// Returns whether products in bfloat16 are in pairs, with the instruction set in use.
bool pairs_in_use();

}  // namespace spdf

#endif  // SPDF_PAIRS_H_
