// The sparse products as XLA's custom calls on CPUs, by its typed FFI.
//
//   spdf_linear            (x, id, bias)          -> y         id of spdf_xla_pack
//   spdf_masked_linear     (x, kernel, id, bias)  -> y         id of spdf_xla_mask
//   spdf_masked_gradients  (x, kernel, id, dy)    -> dx, dkernel
//
// `x` is (tokens, in), `kernel` (in, out), `bias` (out,), `y` and `dy` (tokens, out), all
// float32; `id` is an int32 scalar. `dkernel` is zero outside the mask.

#include <cstdint>
#include <string>

#include "call_tools.h"
#include "registry.h"

namespace {

using namespace spdf::calls;
using Id = ffi::Buffer<ffi::S32>;

ffi::Error unknown(int32_t id, const char* kind) {
  return ffi::Error(ffi::ErrorCode::kNotFound, "spdf: this process has no " +
                                                   std::string(kind) + " with the id " +
                                                   std::to_string(id) + ".");
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
    const LaidOut laid(mask.get(), kernel.typed_data(), SPDF_FLOAT32, SPDF_PRODUCT, pool);
    laid.product(x.typed_data(), bias.typed_data(), sizes[0], y->typed_data());
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
    const LaidOut laid(mask.get(), kernel.typed_data(), SPDF_FLOAT32, SPDF_GRADIENTS,
                       pool);
    laid.gradients(x.typed_data(), dy.typed_data(), sizes[0], dx->typed_data(),
                   dkernel->typed_data());
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
