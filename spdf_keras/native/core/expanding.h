// Weights with int8 values that are expanded on the way to dense integer products.
//
// A weight is stored as a bit for each entry and its kept values, which is the least that
// a product can read. The processor's instructions for dense int8 products are so fast
// that expanding rows in the cache and multiplying their zeros takes less time than
// skipping zeros one by one. A weight with few zeros is stored as it is multiplied. Inputs are rounded to eight bits, with a range of its own for
// each token, as the runtimes do for dense int8 weights.

#ifndef SPDF_EXPANDING_H_
#define SPDF_EXPANDING_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "block.h"
#include "sparse.h"

namespace spdf {

class Entries;

// Rows of an expanding weight are read in blocks of this many.
constexpr int64_t kRowBlock = 32;

// The arrays of an expanding weight, for the loops.
struct Expanding {
  int64_t rows, columns, words;  // a word is the bits of 64 columns
  // (rows, words), or NULL if all values are stored: rows of 64 * words values, up to a
  // multiple of kRowBlock.
  const uint64_t* bits;
  const uint32_t* starts;        // of each row's values
  const int8_t* values;          // with 64 bytes behind the last
  const int32_t* sums;           // of each row's values
  const float* scales;           // of each row's values
};

// Tokens as integers of eight bits: x = scale * (integer - zero).
struct Integers {
  int64_t tokens, padded_columns;  // a multiple of 64
  uint8_t* values;                 // (tokens, padded_columns), in an order of the loops
  float* scales;                   // (tokens,)
  int32_t* zeros;                  // (tokens,)
};

// The loops for one instruction set.
struct ExpandingLoops {
  const char* name;
  // Returns how many tokens `values` must have room for.
  int64_t (*padded_tokens)(int64_t tokens);
  // Rounds tokens [first, last) of (tokens, columns); those from `tokens` on are zeros.
  void (*round)(const float* x, int64_t columns, const Integers& integers, int64_t first,
                int64_t last);
  // Returns the floats of scratch memory that a product needs.
  int64_t (*scratch_floats)(const Expanding& weight, int64_t tokens);
  // Computes rows [first, last) of a product; `first` is a multiple of kRowBlock.
  void (*product)(const Expanding& weight, const Integers& x, const float* bias,
                  int64_t first, int64_t last, float* scratch, float* y);
};

// Return the loops of an instruction set, or NULL where the processor lacks it. They are
// missing from the library where its compiler does not know the instructions.
__attribute__((weak)) const ExpandingLoops* vnni_loops();
__attribute__((weak)) const ExpandingLoops* amx_loops();
__attribute__((weak)) const ExpandingLoops* neon_loops();

// Returns the best loops for a number of tokens, or NULL if this processor has none. The
// answer is NULL for all numbers of tokens or for none.
const ExpandingLoops* expanding_loops(int64_t tokens = 1);

class ExpandingWeight {
 public:
  using Write = std::function<void(float value, int64_t row, int8_t* to)>;

  // `write` rounds a value of a row to an integer.
  ExpandingWeight(const Entries& entries, const Write& write);

  int64_t bytes() const;

  void product(const float* x, const float* bias, const float* scales, int64_t tokens,
               float* y, spdf_parallel parallel, void* pool, int64_t threads) const;

 private:
  int64_t rows_, columns_, words_;
  Block block_;
  const uint64_t* bits_ = nullptr;
  const uint32_t* starts_;
  const int8_t* values_;
  const int32_t* sums_;
};

}  // namespace spdf

#endif  // SPDF_EXPANDING_H_
