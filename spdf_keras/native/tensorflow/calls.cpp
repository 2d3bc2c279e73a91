// The products as custom calls of the programs that TensorFlow compiles with XLA on CPUs.
//
//   spdf_compiled_linear     (x, kernel, mask, bias)  -> y
//   spdf_compiled_gradients  (x, kernel, mask, dy)    -> dx, dkernel
//
// `x` is (tokens, in), `kernel` and `mask` are (in, out), `bias` is (out,), `y` and `dy` are
// (tokens, out). `kernel` and `dkernel`, which is zero outside the mask, are float32; `mask`
// is of booleans; the others are of one type, float32 or bfloat16.

#include <memory>
#include <mutex>
#include <vector>

#include "../xla/call_tools.h"
#include "bfloat16.h"
#include "masks.h"

namespace xla::ffi {
// TensorFlow's own table of functions, which its framework library exports.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace {

using namespace spdf::calls;
using Booleans = ffi::Buffer<ffi::PRED>;

// What a call of a program keeps between its runs: the mask that it read last.
struct LastMask {
  static ffi::TypeId id;

  spdf::Mask get(const Booleans& mask, int64_t in, int64_t out, Pool& pool) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(mask.typed_data());
    spdf::Mask current = spdf::masks().get(bytes, in, out, pool.parallel(), pool.argument());
    std::lock_guard<std::mutex> lock(mutex_);
    last_ = current;
    return current;
  }

 private:
  std::mutex mutex_;
  spdf::Mask last_;
};

ffi::TypeId LastMask::id = {};

// Checks all that the products have in common. `of_out` is the bias, or dy.
ffi::Error check(const ffi::AnyBuffer& x, const Floats& kernel, const Booleans& mask,
                 const ffi::AnyBuffer& of_out) {
  const auto sizes = kernel.dimensions();
  if (sizes.size() != 2) return invalid("`kernel` must be (in, out).");
  const int64_t in = sizes[0], out = sizes[1];
  if (!is(mask.dimensions(), in, out)) return unfit("mask", mask.dimensions(), in, out);
  const auto rows = x.dimensions();
  if (rows.size() != 2 || rows[1] != in) return unfit("x", rows, in, out);
  const auto type = x.element_type();
  if (type != ffi::F32 && type != ffi::BF16)
    return invalid("`x` must be float32 or bfloat16.");
  if (of_out.element_type() != type)
    return invalid("`bias` and `dy` must be of the type of `x`.");
  return ffi::Error::Success();
}

spdf_type type_of(const ffi::AnyBuffer& x) {
  return x.element_type() == ffi::BF16 ? SPDF_BFLOAT16 : SPDF_FLOAT32;
}

// Returns a bias as float32.
std::vector<float> widened(const ffi::AnyBuffer& bias) {
  const size_t count = bias.element_count();
  if (bias.element_type() == ffi::F32) {
    const auto* values = static_cast<const float*>(bias.untyped_data());
    return {values, values + count};
  }
  const auto* halves = static_cast<const uint16_t*>(bias.untyped_data());
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = spdf::from_bfloat16(halves[i]);
  return values;
}

ffi::Error linear(LastMask* last, ffi::ThreadPool threads, ffi::AnyBuffer x, Floats kernel,
                  Booleans mask, ffi::AnyBuffer bias, ffi::Result<ffi::AnyBuffer> y) {
  return guarded([&] {
    if (ffi::Error error = check(x, kernel, mask, bias); error.failure()) return error;
    const int64_t in = kernel.dimensions()[0], out = kernel.dimensions()[1],
                  tokens = x.dimensions()[0];
    if (!is(bias.dimensions(), out)) return unfit("bias", bias.dimensions(), in, out);
    if (!is(y->dimensions(), tokens, out)) return unfit("y", y->dimensions(), in, out);
    Pool pool(&threads);
    const spdf::Mask current = last->get(mask, in, out, pool);
    const LaidOut laid(current.get(), kernel.typed_data(), type_of(x), SPDF_PRODUCT, pool);
    laid.product(x.untyped_data(), widened(bias).data(), tokens, y->untyped_data());
    return ffi::Error::Success();
  });
}

ffi::Error gradients(LastMask* last, ffi::ThreadPool threads, ffi::AnyBuffer x,
                     Floats kernel, Booleans mask, ffi::AnyBuffer dy,
                     ffi::Result<ffi::AnyBuffer> dx, FloatResult dkernel) {
  return guarded([&] {
    if (ffi::Error error = check(x, kernel, mask, dy); error.failure()) return error;
    const int64_t in = kernel.dimensions()[0], out = kernel.dimensions()[1],
                  tokens = x.dimensions()[0];
    if (!is(dy.dimensions(), tokens, out)) return unfit("dy", dy.dimensions(), in, out);
    if (!is(dx->dimensions(), tokens, in)) return unfit("dx", dx->dimensions(), in, out);
    if (!is(dkernel->dimensions(), in, out))
      return unfit("dkernel", dkernel->dimensions(), in, out);
    Pool pool(&threads);
    const spdf::Mask current = last->get(mask, in, out, pool);
    const LaidOut laid(current.get(), kernel.typed_data(), type_of(x), SPDF_GRADIENTS,
                       pool);
    laid.gradients(x.untyped_data(), dy.untyped_data(), tokens, dx->untyped_data(),
                   dkernel->typed_data());
    return ffi::Error::Success();
  });
}

ffi::ErrorOr<std::unique_ptr<LastMask>> start() { return std::make_unique<LastMask>(); }

XLA_FFI_DEFINE_HANDLER(kStart, start, ffi::Ffi::BindInstantiate());

XLA_FFI_DEFINE_HANDLER(kLinear, linear,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<LastMask>>()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Floats>()
                           .Arg<Booleans>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER(kGradients, gradients,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<LastMask>>()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Floats>()
                           .Arg<Booleans>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<Floats>());

XLA_FFI_REGISTER_TYPE(ffi::GetXlaFfiApi(), "spdf_last_mask", &LastMask::id,
                      ffi::MakeTypeInfo<LastMask>());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), "spdf_compiled_linear", "Host",
                         (XLA_FFI_Handler_Bundle{kStart, nullptr, nullptr, kLinear}));
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), "spdf_compiled_gradients", "Host",
                         (XLA_FFI_Handler_Bundle{kStart, nullptr, nullptr, kGradients}));

}  // namespace
