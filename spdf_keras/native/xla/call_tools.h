// What handlers of XLA's custom calls share: threads, checks, and kernels for one call.

#ifndef SPDF_XLA_CALL_TOOLS_H_
#define SPDF_XLA_CALL_TOOLS_H_

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "buffer.h"
#include "job.h"
#include "masked.h"
#include "xla/ffi/api/ffi.h"

namespace spdf::calls {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using FloatResult = ffi::ResultBuffer<ffi::F32>;

// XLA's own threads.
class Pool {
 public:
  explicit Pool(ffi::ThreadPool* threads)
      : threads_(threads), count_(std::max<int64_t>(1, threads->num_threads())) {}

  int64_t count() const { return count_; }
  void* argument() { return this; }
  spdf_parallel parallel() const { return count_ > 1 ? run : nullptr; }

 private:
  static void run(void* pool, int64_t count, void (*body)(void*, int64_t),
                  void* argument) {
    auto& own = *static_cast<Pool*>(pool);
    auto job = std::make_shared<Job>(count, body, argument);
    const int64_t helpers = std::min(own.count_, count) - 1;
    for (int64_t i = 0; i < helpers; ++i) own.threads_->Schedule([job] { job->take(); });
    job->take();
    while (!job->is_done()) std::this_thread::yield();
    job->rethrow();
  }

  ffi::ThreadPool* threads_;
  const int64_t count_;
};

inline std::string shape(ffi::AnyBuffer::Dimensions dimensions) {
  std::string text = "(";
  for (const int64_t size : dimensions)
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

inline bool is(ffi::AnyBuffer::Dimensions dimensions, int64_t rows, int64_t columns) {
  return dimensions.size() == 2 && dimensions[0] == rows && dimensions[1] == columns;
}

inline bool is(ffi::AnyBuffer::Dimensions dimensions, int64_t size) {
  return dimensions.size() == 1 && dimensions[0] == size;
}

inline ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "spdf: " + message);
}

inline ffi::Error unfit(const char* name, ffi::AnyBuffer::Dimensions received, int64_t in,
                        int64_t out) {
  return invalid(std::string("`") + name + "` does not fit the kernel (" +
                 std::to_string(in) + ", " + std::to_string(out) +
                 "). Received: " + shape(received) + ".");
}

// No exception may leave a handler.
template <class Compute>
ffi::Error guarded(const Compute& compute) {
  try {
    return compute();
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      std::string("spdf: ") + error.what());
  }
}

// A masked kernel, laid out for one call.
class LaidOut {
 public:
  LaidOut(const spdf_mask* mask, const float* kernel, spdf_type type, int uses, Pool& pool)
      : mask_(mask), kept_(spdf_mask_kept(mask)), pool_(pool) {
    spdf_keep(mask, kernel, kept_.data(), pool.parallel(), pool.argument());
    layout_ = spdf_lay_out(mask, kept_.data(), type, uses, pool.parallel(),
                           pool.argument());
  }
  ~LaidOut() { spdf_layout_free(layout_); }
  LaidOut(const LaidOut&) = delete;

  // See spdf_layout_product.
  void product(const void* x, const float* bias, int64_t tokens, void* y) const {
    spdf_layout_product(layout_, x, bias, tokens, y, pool_.parallel(), pool_.argument(),
                        pool_.count());
  }

  // See spdf_layout_gradients; `dkernel` is (in, out), and zero outside the mask.
  void gradients(const void* x, const void* dy, int64_t tokens, void* dx,
                 float* dkernel) const {
    Buffer gradient(spdf_mask_kept(mask_));
    spdf_layout_gradients(layout_, x, dy, tokens, dx, gradient.data(), pool_.parallel(),
                          pool_.argument(), pool_.count());
    spdf_spread(mask_, gradient.data(), dkernel, pool_.parallel(), pool_.argument());
  }

 private:
  const spdf_mask* const mask_;
  Buffer kept_;
  Pool& pool_;
  spdf_layout* layout_;
};

}  // namespace spdf::calls

#endif  // SPDF_XLA_CALL_TOOLS_H_
