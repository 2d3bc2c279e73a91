// Reads weights as files store them.

#ifndef SPDF_SOURCE_H_
#define SPDF_SOURCE_H_

#include <cstdint>
#include <vector>

#include "bit_matrix.h"
#include "loops.h"
#include "packed.h"

namespace spdf {

// Returns NULL if a source does not contradict itself, or else a sentence.
const char* contradiction(const spdf_source& source);

// A source whose kept entries are known; the source must outlive it.
class Entries {
 public:
  explicit Entries(const spdf_source& source);

  const BitMatrix& kept() const { return kept_; }
  const spdf_source& source() const { return source_; }

  // Returns the index, in the source's values, of the first entry at or after `entry` of a
  // line that is kept; SPDF_DENSE has a value for every entry.
  int64_t value_index(int64_t line, int64_t entry) const;

  // Reads a value; int8 values are not multiplied by their scale.
  float value(int64_t index) const {
    switch (source_.type) {
      case SPDF_FLOAT32: return static_cast<const float*>(source_.values)[index];
      case SPDF_FLOAT16: return to_float(static_cast<const Half*>(source_.values)[index]);
      default: return static_cast<const int8_t*>(source_.values)[index];
    }
  }

  // Calls `body(entry, value)` for each kept entry of a line in [first, end), in order.
  template <class Body>
  void each(int64_t line, int64_t first, int64_t end, const Body& body) const {
    const bool dense = source_.code == SPDF_DENSE;
    int64_t index = dense ? line * kept_.length : value_index(line, first);
    for (int64_t start = first; start < end; start += 64) {
      uint64_t word = kept_.word_at(line, start);
      if (end - start < 64) word &= (uint64_t{1} << (end - start)) - 1;
      for (; word; word &= word - 1) {
        const int64_t entry = start + __builtin_ctzll(word);
        body(entry, value(dense ? index + entry : index++));
      }
    }
  }

  // Returns the scale of each row: that of the source, or 1.
  std::vector<float> scales() const;

 private:
  const spdf_source& source_;
  BitMatrix kept_;
  std::vector<uint32_t> starts_;  // of the values of each line; empty for SPDF_DENSE
};

}  // namespace spdf

#endif  // SPDF_SOURCE_H_
