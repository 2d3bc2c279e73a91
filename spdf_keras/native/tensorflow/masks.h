// The masks that this process has read.

#ifndef SPDF_MASKS_H_
#define SPDF_MASKS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "masked.h"

namespace spdf {

using Mask = std::shared_ptr<const spdf_mask>;

// Masks by their content, shared by all operations and calls with the same mask. One lives
// as long as somebody holds it.
class Masks {
 public:
  // Returns a mask (in, out), of which `bytes` has an entry each, 0 or 1.
  Mask get(const uint8_t* bytes, int64_t in, int64_t out, spdf_parallel parallel,
           void* pool);

 private:
  using Key = std::tuple<uint64_t, int64_t, int64_t>;
  std::mutex mutex_;
  std::map<Key, std::weak_ptr<const spdf_mask>> known_;
};

Masks& masks();

}  // namespace spdf

#endif  // SPDF_MASKS_H_
