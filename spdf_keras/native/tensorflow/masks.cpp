// Finds masks by their content.

#include "masks.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace {

// Returns a fingerprint of a mask, in one pass over threads at the speed of memory.
uint64_t fingerprint(const uint8_t* bytes, int64_t count, spdf_parallel parallel,
                     void* pool) {
  constexpr int64_t kPart = 1 << 20;
  constexpr uint64_t kFactor = 0x9E3779B97F4A7C15ull;
  const auto mixed = [](uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * kFactor;
    return sum ^ sum >> 29;
  };
  std::vector<uint64_t> sums((count + kPart - 1) / kPart);
  spdf::run(parallel, pool, sums.size(), [&](int64_t part) {
    uint64_t lanes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int64_t i = part * kPart;
    const int64_t end = std::min(count, i + kPart);
    for (; i + 64 <= end; i += 64)
      for (int lane = 0; lane < 8; ++lane) {
        uint64_t word;
        std::memcpy(&word, bytes + i + 8 * lane, 8);
        lanes[lane] = mixed(lanes[lane], word);
      }
    for (; i < end; ++i) lanes[0] = mixed(lanes[0], bytes[i]);
    sums[part] = end;
    for (uint64_t lane : lanes) sums[part] = mixed(sums[part], lane);
  });
  uint64_t all = count;
  for (uint64_t sum : sums) all = mixed(all, sum);
  return all;
}

}  // namespace

namespace spdf {

Mask Masks::get(const uint8_t* bytes, int64_t in, int64_t out, spdf_parallel parallel,
                void* pool) {
  const Key key{fingerprint(bytes, in * out, parallel, pool), in, out};
  std::lock_guard<std::mutex> lock(mutex_);
  if (Mask known = known_[key].lock()) return known;
  Mask shared(spdf_mask_create(bytes, in, out, parallel, pool),
              [](const spdf_mask* m) { spdf_mask_free(const_cast<spdf_mask*>(m)); });
  known_[key] = shared;
  return shared;
}

Masks& masks() {
  static auto* made = new Masks;
  return *made;
}

}  // namespace spdf
