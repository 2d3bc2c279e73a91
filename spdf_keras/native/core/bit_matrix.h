// Where a weight's kept entries lie: one bit for each entry, by line.

#ifndef SPDF_BIT_MATRIX_H_
#define SPDF_BIT_MATRIX_H_

#include <cstdint>
#include <vector>

#include "sparse.h"

namespace spdf {

// A line is a row of the weight, or a column where the weight is stored by column. Bit
// `i % 64` of word `i / 64` of a line belongs to its entry `i`; bits past the end are 0.
struct BitMatrix {
  int64_t lines = 0, length = 0, words = 0;
  std::vector<uint64_t> bits;

  BitMatrix(int64_t lines, int64_t length)
      : lines(lines), length(length), words((length + 63) / 64), bits(lines * words) {}

  const uint64_t* line(int64_t index) const { return bits.data() + index * words; }
  uint64_t* line(int64_t index) { return bits.data() + index * words; }

  // Returns up to 64 bits of a line from entry `first`.
  uint64_t word_at(int64_t index, int64_t first) const {
    const uint64_t* words_of_line = line(index);
    const int64_t word = first / 64, shift = first % 64;
    uint64_t bits_here = words_of_line[word] >> shift;
    if (shift && word + 1 < words) bits_here |= words_of_line[word + 1] << (64 - shift);
    return bits_here;
  }

  // Returns the number of kept entries before entry `end` of a line.
  int64_t count_before(int64_t index, int64_t end) const {
    const uint64_t* words_of_line = line(index);
    int64_t sum = 0;
    for (int64_t word = 0; word < end / 64; ++word)
      sum += __builtin_popcountll(words_of_line[word]);
    if (end % 64)
      sum += __builtin_popcountll(words_of_line[end / 64] & ((uint64_t{1} << end % 64) - 1));
    return sum;
  }

  int64_t count() const {
    int64_t sum = 0;
    for (uint64_t word : bits) sum += __builtin_popcountll(word);
    return sum;
  }
};

}  // namespace spdf

#endif  // SPDF_BIT_MATRIX_H_
