// Memory of one thread, kept between calls.

#ifndef SPDF_SCRATCH_H_
#define SPDF_SCRATCH_H_

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace spdf {

// The system would zero newly allocated memory each time. Large memory has large pages,
// which are read and written faster.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  float* get(size_t floats) {
    if (floats > size_) {
      std::free(data_);
      size_ = (floats + 15) / 16 * 16;
      void* data = nullptr;
      // `aligned_alloc` is missing on Android before version 9.
      const size_t bytes = size_ * sizeof(float);
      if (posix_memalign(&data, bytes < kLargePage ? 64 : kLargePage, bytes)) {
        data_ = nullptr, size_ = 0;
        throw std::bad_alloc();
      }
#if defined(MADV_HUGEPAGE)
      if (bytes >= kLargePage) madvise(data, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
      data_ = static_cast<float*>(data);
    }
    return data_;
  }

 private:
  static constexpr size_t kLargePage = 2 << 20;

  float* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace spdf

#endif  // SPDF_SCRATCH_H_
