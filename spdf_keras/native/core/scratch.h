// Memory of one thread, kept between calls.

#ifndef SPDF_SCRATCH_H_
#define SPDF_SCRATCH_H_

#include <cstddef>
#include <cstdlib>
#include <new>

namespace spdf {

// The system would zero newly allocated memory each time.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  float* get(size_t floats) {
    if (floats > size_) {
      std::free(data_);
      size_ = (floats + 15) / 16 * 16;
      void* data = nullptr;
      // `aligned_alloc` is missing on Android before version 9.
      if (posix_memalign(&data, 64, size_ * sizeof(float))) {
        data_ = nullptr, size_ = 0;
        throw std::bad_alloc();
      }
      data_ = static_cast<float*>(data);
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace spdf

#endif  // SPDF_SCRATCH_H_
