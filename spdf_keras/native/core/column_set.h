// Sets of columns of a block, for building structures.

#ifndef SPDF_COLUMN_SET_H_
#define SPDF_COLUMN_SET_H_

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "loops.h"

namespace spdf {

// A set of columns of a block.
struct Columns {
  uint64_t words[kMaxBlock / 64] = {};

  void insert(int64_t k) { words[k / 64] |= uint64_t{1} << k % 64; }
  int count() const {
    int sum = 0;
    for (uint64_t word : words) sum += __builtin_popcountll(word);
    return sum;
  }
  Columns shared(const Columns& other) const {
    Columns both;
    for (size_t i = 0; i < std::size(words); ++i)
      both.words[i] = words[i] & other.words[i];
    return both;
  }
  // Removes and returns the first column, or returns -1 if there is none.
  int take() {
    for (size_t i = 0; i < std::size(words); ++i)
      if (words[i]) {
        const int bit = __builtin_ctzll(words[i]);
        words[i] &= words[i] - 1;
        return static_cast<int>(64 * i) + bit;
      }
    return -1;
  }
  void remove(int64_t k) { words[k / 64] &= ~(uint64_t{1} << k % 64); }
};

}  // namespace spdf

#endif  // SPDF_COLUMN_SET_H_
