// The sparse products as XLA's custom calls on CPUs, by its typed FFI.
//
//   spdf_linear            (x, id, bias)          -> y         id of spdf_xla_pack
//   spdf_masked_linear     (x, kernel, id, bias)  -> y         id of spdf_xla_mask
//   spdf_masked_gradients  (x, kernel, id, dy)    -> dx, dkernel
//
// `x` is (tokens, in), `kernel` (in, out), `bias` (out,), `y` and `dy` (tokens, out), all
// float32; `id` is an int32 scalar. `dkernel` is zero outside the mask.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "buffer.h"
#include "job.h"
#include "registry.h"
#include "sparse.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using FloatResult = ffi::ResultBuffer<ffi::F32>;
using Id = ffi::Buffer<ffi::S32>;
using spdf::Buffer;

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
    auto job = std::make_shared<spdf::Job>(count, body, argument);
    const int64_t helpers = std::min(own.count_, count) - 1;
    for (int64_t i = 0; i < helpers; ++i) own.threads_->Schedule([job] { job->take(); });
    job->take();
    while (!job->is_done()) std::this_thread::yield();
    job->rethrow();
  }

  ffi::ThreadPool* threads_;
  const int64_t count_;
};

std::string shape(ffi::AnyBuffer::Dimensions dimensions) {
  std::string text = "(";
  for (const int64_t size : dimensions)
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

bool is(ffi::AnyBuffer::Dimensions dimensions, int64_t rows, int64_t columns) {
  return dimensions.size() == 2 && dimensions[0] == rows && dimensions[1] == columns;
}

bool is(ffi::AnyBuffer::Dimensions dimensions, int64_t size) {
  return dimensions.size() == 1 && dimensions[0] == size;
}

ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "spdf: " + message);
}

ffi::Error unfit(const char* name, ffi::AnyBuffer::Dimensions received, int64_t in,
                 int64_t out) {
  return invalid(std::string("`") + name + "` does not fit the kernel (" +
                 std::to_string(in) + ", " + std::to_string(out) +
                 "). Received: " + shape(received) + ".");
}

ffi::Error unknown(int32_t id, const char* kind) {
  return ffi::Error(ffi::ErrorCode::kNotFound, "spdf: this process has no " +
                                                   std::string(kind) + " with the id " +
                                                   std::to_string(id) + ".");
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

ffi::Error linear(ffi::ThreadPool threads, Floats x, Id id, Floats bias, FloatResult y) {
  return guarded([&] {
    if (id.element_count() != 1) return invalid("`id` must be a scalar.");
    const auto kernel = spdf::find_kernel(*id.typed_data());
    if (!kernel) return unknown(*id.typed_data(), "packed kernel");
    const int64_t in = spdf_packed_columns(kernel.get()),
                  out = spdf_packed_rows(kernel.get());
    const auto sizes = x.dimensions();
    if (sizes.size() != 2 || sizes[1] != in) return unfit("x", sizes, in, out);
    if (!is(bias.dimensions(), out)) return unfit("bias", bias.dimensions(), in, out);
    if (!is(y->dimensions(), sizes[0], out)) return unfit("y", y->dimensions(), in, out);
    Pool pool(&threads);
    spdf_packed_product(kernel.get(), x.typed_data(), bias.typed_data(), sizes[0],
                        y->typed_data(), pool.parallel(), pool.argument(), pool.count());
    return ffi::Error::Success();
  });
}

// The kept values of a kernel, laid out for one call.
class LaidOut {
 public:
  LaidOut(const spdf_mask* mask, const float* kernel, int uses, Pool& pool)
      : kept_(spdf_mask_kept(mask)) {
    spdf_keep(mask, kernel, kept_.data(), pool.parallel(), pool.argument());
    layout_ = spdf_lay_out(mask, kept_.data(), SPDF_FLOAT32, uses, pool.parallel(),
                           pool.argument());
  }
  ~LaidOut() { spdf_layout_free(layout_); }
  LaidOut(const LaidOut&) = delete;
  const spdf_layout* layout() const { return layout_; }

 private:
  Buffer kept_;
  spdf_layout* layout_;
};

ffi::Error masked_linear(ffi::ThreadPool threads, Floats x, Floats kernel, Id id,
                         Floats bias, FloatResult y) {
  return guarded([&] {
    if (id.element_count() != 1) return invalid("`id` must be a scalar.");
    const auto mask = spdf::find_mask(*id.typed_data());
    if (!mask) return unknown(*id.typed_data(), "mask");
    const int64_t in = spdf_mask_in(mask.get()), out = spdf_mask_out(mask.get());
    const auto sizes = x.dimensions();
    if (sizes.size() != 2 || sizes[1] != in) return unfit("x", sizes, in, out);
    if (!is(kernel.dimensions(), in, out))
      return unfit("kernel", kernel.dimensions(), in, out);
    if (!is(bias.dimensions(), out)) return unfit("bias", bias.dimensions(), in, out);
    if (!is(y->dimensions(), sizes[0], out)) return unfit("y", y->dimensions(), in, out);
    Pool pool(&threads);
    const LaidOut laid(mask.get(), kernel.typed_data(), SPDF_PRODUCT, pool);
    spdf_layout_product(laid.layout(), x.typed_data(), bias.typed_data(), sizes[0],
                y->typed_data(), pool.parallel(), pool.argument(), pool.count());
    return ffi::Error::Success();
  });
}

ffi::Error masked_gradients(ffi::ThreadPool threads, Floats x, Floats kernel, Id id,
                            Floats dy, FloatResult dx, FloatResult dkernel) {
  return guarded([&] {
    if (id.element_count() != 1) return invalid("`id` must be a scalar.");
    const auto mask = spdf::find_mask(*id.typed_data());
    if (!mask) return unknown(*id.typed_data(), "mask");
    const int64_t in = spdf_mask_in(mask.get()), out = spdf_mask_out(mask.get());
    const auto sizes = x.dimensions();
    if (sizes.size() != 2 || sizes[1] != in) return unfit("x", sizes, in, out);
    if (!is(kernel.dimensions(), in, out))
      return unfit("kernel", kernel.dimensions(), in, out);
    if (!is(dy.dimensions(), sizes[0], out)) return unfit("dy", dy.dimensions(), in, out);
    if (!is(dx->dimensions(), sizes[0], in)) return unfit("dx", dx->dimensions(), in, out);
    if (!is(dkernel->dimensions(), in, out))
      return unfit("dkernel", dkernel->dimensions(), in, out);
    Pool pool(&threads);
    const LaidOut laid(mask.get(), kernel.typed_data(), SPDF_GRADIENTS, pool);
    Buffer gradient(spdf_mask_kept(mask.get()));
    spdf_layout_gradients(laid.layout(), x.typed_data(), dy.typed_data(), sizes[0],
                          dx->typed_data(), gradient.data(), pool.parallel(),
                          pool.argument(), pool.count());
    spdf_spread(mask.get(), gradient.data(), dkernel->typed_data(), pool.parallel(),
                pool.argument());
    return ffi::Error::Success();
  });
}

}  // namespace

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    spdf_linear, linear,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Id>().Arg<Floats>().Ret<
        Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(spdf_masked_linear, masked_linear,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Id>()
                                  .Arg<Floats>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(spdf_masked_gradients, masked_gradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Id>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());

#pragma GCC visibility pop
