// Where the kept values of a kernel lie.

#ifndef SPDF_MASK_H_
#define SPDF_MASK_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "bit_matrix.h"
#include "masked.h"
#include "pairs.h"
#include "structure.h"

struct spdf_mask {
  // Lines are rows of the kernel (in, out).
  spdf::BitMatrix bits;
  // Position among the kept values of the first one of each word of `bits`, and the
  // number of all.
  std::vector<uint32_t> starts;

  spdf_mask(int64_t in, int64_t out) : bits(in, out) {}

  int64_t in() const { return bits.lines; }
  int64_t out() const { return bits.length; }
  int64_t kept() const { return starts.back(); }

  // Returns the position of the first kept value at or behind an entry.
  uint32_t start(int64_t row, int64_t column) const {
    const int64_t word = row * bits.words + column / 64;
    const uint64_t before = (uint64_t{1} << column % 64) - 1;
    return starts[word] +
           static_cast<uint32_t>(__builtin_popcountll(bits.bits[word] & before));
  }

  // Return the structure of the kernel's transpose (out, in), which products need, or of
  // the kernel, which gradients need. They are built when they are needed first.
  const spdf_structure& forward(spdf_parallel parallel, void* pool) const;
  const spdf_structure& backward(spdf_parallel parallel, void* pool) const;
  // Return the same for products in pairs.
  const spdf::PairedStructure& paired_forward(spdf_parallel parallel, void* pool) const;
  const spdf::PairedStructure& paired_backward(spdf_parallel parallel, void* pool) const;

  // Returns the bytes of memory of the index and the structures that were built.
  int64_t bytes() const;

 private:
  mutable std::mutex mutex_;
  mutable std::unique_ptr<spdf_structure> forward_, backward_;
  mutable std::unique_ptr<const spdf::PairedStructure> paired_forward_, paired_backward_;
};

namespace spdf {

// Copies the entries of a word, up to 64, that are kept; reads no other. Returns the end.
float* compress(uint64_t word, const float* entries, float* kept);
// Writes `count` entries: kept values, and zeros between them. Returns the end of those.
const float* expand(uint64_t word, const float* kept, int64_t count, float* entries);

}  // namespace spdf

#endif  // SPDF_MASK_H_
