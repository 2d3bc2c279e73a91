// Memory for intermediate values, which later calls reuse.

#ifndef SPDF_BUFFER_H_
#define SPDF_BUFFER_H_

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace spdf {

// Floats for one call: the system would zero newly allocated memory each time.
class Buffer {
 public:
  explicit Buffer(int64_t floats) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      if (!unused().empty()) {
        floats_ = std::move(unused().back());
        unused().pop_back();
      }
    }
    if (floats_.size() < static_cast<size_t>(floats)) floats_.resize(floats);
  }
  ~Buffer() {
    std::lock_guard<std::mutex> lock(mutex());
    unused().push_back(std::move(floats_));
  }
  Buffer(const Buffer&) = delete;
  float* data() { return floats_.data(); }

 private:
  static std::mutex& mutex() {
    static auto* made = new std::mutex;
    return *made;
  }
  static std::vector<std::vector<float>>& unused() {
    static auto* made = new std::vector<std::vector<float>>;
    return *made;
  }

  std::vector<float> floats_;
};

}  // namespace spdf

#endif  // SPDF_BUFFER_H_
