// The structure of a mask, and the interface of the loops of all instruction sets.

#ifndef SPDF_LOOPS_H_
#define SPDF_LOOPS_H_

#include <cstdint>
#include <cstring>

#include "packed.h"

namespace spdf {

// Largest number of rows of a region: their sums stay in the cache.
constexpr int64_t kWindow = 128;
// Largest number of columns of a region: the index of a column fits into a byte.
constexpr int64_t kMaxBlock = 256;
// The values of a region start at a multiple of this, the widest vector in floats.
constexpr int64_t kAlign = 16;

// Four rows of a region, which are computed together.
struct Group {
  // Row index within the window; an index at or above its row count is padding.
  uint16_t rows[4];
  // Number of steps with two columns: rows 0 and 1 share one, rows 2 and 3 the other.
  uint16_t pairs;
  // Number of steps with four columns, one for each row.
  uint16_t singles;
};

// The kept entries of a mask `(rows, columns)`, by region. A region is the intersection
// of a window of rows and a block of columns.
//
// The rows of a region are sorted by their number of values and grouped by four, so that
// the rows of a group need about the same number of steps and branch prediction works.
// Each step has one value of every row. A row with fewer values gets fillers, whose place
// and value are 0.
struct Structure {
  int64_t rows, columns, windows, block, blocks;
  // Strides of the dense weight; one of the two is 1.
  int64_t row_stride, column_stride;
  // Start of each region in the arrays below, `(windows * blocks + 1,)`.
  const uint32_t* value_starts;
  const uint32_t* place_starts;
  const uint32_t* group_starts;
  const Group* groups;
  // Columns of the steps within the block: two for a step of a pair, four for others.
  const uint8_t* places;
  // Index of each value in a copy of its region; see `copy_place`.
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

// Index of an entry in a copy of its region, which keeps the lines of the weight.
inline int64_t copy_place(const Structure& s, int64_t row, int64_t column) {
  return s.row_stride == 1 ? column * kWindow + row : row * kMaxBlock + column;
}

// A weight with a smaller fraction of zeros takes less memory if they are stored too.
constexpr double kLeastZeros = 0.1;

// Largest number of tokens that a dense weight is multiplied by at a time.
constexpr int64_t kDenseTokens = 4;

// Index of all fillers, behind the copy.
constexpr int64_t kCopy = kWindow * kMaxBlock;

// A float16 as it is stored.
struct Half {
  uint16_t bits;
};

inline float to_float(Half half) {
#if defined(__aarch64__)
  __fp16 value;
  std::memcpy(&value, &half.bits, 2);
  return static_cast<float>(value);
#else
  const uint32_t sign = uint32_t{half.bits} << 16 & 0x80000000, body = half.bits & 0x7fffu;
  uint32_t bits = body >= 0x7c00 ? 0x7f800000 | (body & 0x3ff) << 13
                                 : (body << 13) + (112u << 23);
  if (body < 0x400) {
    const float tiny = static_cast<float>(body) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &tiny, 4);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

// The values of a structure, of one type; `scales` has one for each row, or is NULL.
struct Values {
  spdf_type type;
  const void* data;
  const float* scales;
};

// The loops for one instruction set and one number of tokens, the tile. The tile of a
// window, `(rows + 3, tile)`, includes the padding rows of its last group.
struct Loops {
  const char* name;
  int64_t tile;
  // Largest number of columns of a block.
  int64_t most_columns;
  // Transposes tokens `(count, columns)`, whose rows are `stride` apart, into a tile
  // `(columns, tile)`.
  void (*to_tile)(const float* x, int64_t columns, int64_t stride, int64_t count,
                  float* tile);
  // Transposes a tile into tokens `(count, columns)`. Unless they are NULL, it multiplies
  // each column by its scale, and adds its bias.
  void (*from_tile)(const float* tile, int64_t columns, int64_t stride, int64_t count,
                    const float* bias, const float* scales, float* y);
  // Write the product of a window's rows and `x`, `(columns, tile)`, to its tile `y`; one
  // for each type of values.
  void (*product[3])(const Structure& s, int64_t window, const void* values,
                     const float* x, float* y);
  // Write rows [first, last) of the product of a dense weight (rows, columns) and up to
  // `kDenseTokens` tokens (tokens, columns) to `y`, (tokens, stride); one for float32 and
  // one for float16. `columns` is a multiple of `kAlign`.
  void (*dense[2])(const void* values, int64_t columns, int64_t first, int64_t last,
                   const float* x, int64_t tokens, float* y, int64_t stride);
  // Adds to each value of a region the dot product of its row of `dy`, the tile of a
  // window, and its column of `x`, `(columns, tile)`.
  void (*gradient)(const Structure& s, int64_t region, const float* x, const float* dy,
                   float* values);
  // Compute GELU of `count` numbers of a type, and dy times its derivative.
  void (*gelu)(spdf_type type, const void* x, int64_t count, void* y);
  void (*gelu_gradient)(spdf_type type, const void* x, const void* dy, int64_t count,
                        void* dx);
  // Adds up the tokens of `columns` columns of dy, whose rows are `stride` apart.
  void (*token_sums)(spdf_type type, const void* dy, int64_t tokens, int64_t stride,
                     int64_t columns, float* sums);
};

// Return the loops of an instruction set, widest tile first; the last entry has no name.
const Loops* portable_loops();
const Loops* avx2_loops();
const Loops* avx512_loops();

// Returns the number of tokens of the widest tile of the instruction set in use.
int64_t widest_tile();

// Returns the widest loops in use.
const Loops& widest_loops();

// Returns the loops with the narrowest tile that holds the tokens, or else the widest.
const Loops& loops_for(const Structure& s, int64_t tokens);

// Computes y = x @ weight.T + bias with values of any type; x is (tokens, columns), y
// (tokens, rows), both SPDF_FLOAT32 or SPDF_BFLOAT16, and `bias` may be NULL.
void product(const Structure& s, const Values& values, const void* x,
             spdf_type activations, const float* bias, int64_t tokens, void* y,
             spdf_parallel parallel, void* pool, int64_t threads);

}  // namespace spdf

#endif  // SPDF_LOOPS_H_
