// The products as TensorFlow operations on the CPU, in float32.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "buffer.h"
#include "parallel.h"
#include "sparse.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/framework/variant_tensor_data.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace {

using spdf::Buffer;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::thread::ThreadPool;

using Structure = std::shared_ptr<const spdf_structure>;

void parallel(void* pool, int64_t count, void (*body)(void*, int64_t), void* argument) {
  static_cast<ThreadPool*>(pool)->ParallelFor(
      count,
      ThreadPool::SchedulingParams(ThreadPool::SchedulingStrategy::kFixedBlockSize,
                                   absl::nullopt, 1),
      [body, argument](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) body(argument, i);
      });
}

// Returns a fingerprint of a mask, in one pass over threads at the speed of memory.
uint64_t fingerprint(const uint8_t* bytes, int64_t count, ThreadPool* pool) {
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

// The structures of masks, shared by all operations with the same mask.
class Structures {
 public:
  // Returns the structure of a kernel `(columns, rows)`, or of its transpose. `content` is
  // the fingerprint of the mask.
  Structure get(const uint8_t* mask, uint64_t content, int64_t columns, int64_t rows,
                bool transposed, ThreadPool* pool) {
    const Key key{content, columns, rows, transposed};
    std::lock_guard<std::mutex> lock(mutex_);
    if (Structure known = known_[key].lock()) return known;
    spdf_structure* made =
        transposed ? spdf_structure_create(mask, columns, rows, rows, 1, parallel, pool)
                   : spdf_structure_create(mask, rows, columns, 1, rows, parallel, pool);
    Structure shared(made, [](const spdf_structure* s) {
      spdf_structure_free(const_cast<spdf_structure*>(s));
    });
    known_[key] = shared;
    return shared;
  }

 private:
  using Key = std::tuple<uint64_t, int64_t, int64_t, bool>;
  std::mutex mutex_;
  std::map<Key, std::weak_ptr<const spdf_structure>> known_;
};

Structures& structures() {
  static auto* made = new Structures;
  return *made;
}

ThreadPool* workers(OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->workers;
}

const float* data(const Tensor& tensor) { return tensor.flat<float>().data(); }
float* data(Tensor* tensor) { return tensor->flat<float>().data(); }

int64_t size(const Structure& structure) {
  return spdf_structure_size(structure.get());
}

class SparseOp : public tensorflow::OpKernel {
 public:
  explicit SparseOp(OpKernelConstruction* construction)
      : OpKernel(construction) {}

 protected:
  // Checks `x`, `kernel` and `mask`, the first three inputs.
  tensorflow::Status check(OpKernelContext* context) {
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    TF_RETURN_IF_ERROR(check_kernel(kernel, context->input(2)));
    if (x.dims() != 2 || x.dim_size(1) != kernel.dim_size(0))
      return InvalidArgument("x must be (tokens, in), kernel (in, out). Received: x ",
                             x.shape().DebugString(), ", kernel ",
                             kernel.shape().DebugString(), ".");
    return tensorflow::OkStatus();
  }

  static tensorflow::Status check_kernel(const Tensor& kernel, const Tensor& mask) {
    if (kernel.dims() != 2 || kernel.shape() != mask.shape() ||
        kernel.NumElements() == 0)
      return InvalidArgument("kernel and mask must be (in, out). Received: kernel ",
                             kernel.shape().DebugString(), ", mask ",
                             mask.shape().DebugString(), ".");
    return tensorflow::OkStatus();
  }

  static const uint8_t* bytes(const Tensor& mask) {
    return reinterpret_cast<const uint8_t*>(mask.flat<bool>().data());
  }

  Structure structure(const Tensor& mask, uint64_t content, bool transposed,
                      ThreadPool* pool) {
    Structure current = structures().get(bytes(mask), content, mask.dim_size(0),
                                         mask.dim_size(1), transposed, pool);
    std::lock_guard<std::mutex> lock(mutex_);
    kept_[transposed] = current;  // keeps it alive between calls
    return current;
  }

 private:
  std::mutex mutex_;
  Structure kept_[2];
};

class SparseLinearOp : public SparseOp {
 public:
  using SparseOp::SparseOp;

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, check(context));
    const Tensor& x = context->input(0);
    const Tensor& bias = context->input(3);
    const int64_t rows = context->input(1).dim_size(1);
    OP_REQUIRES(context, bias.dims() == 1 && bias.dim_size(0) == rows,
                InvalidArgument("bias must be (", rows, "). Received: ",
                                bias.shape().DebugString(), "."));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({x.dim_size(0), rows}), &y));
    const Tensor& mask = context->input(2);
    ThreadPool* pool = workers(context);
    const uint64_t content = fingerprint(bytes(mask), mask.NumElements(), pool);
    const Structure forward = structure(mask, content, false, pool);
    Buffer values(size(forward));
    spdf_gather(forward.get(), data(context->input(1)), values.data(), parallel, pool);
    spdf_product(forward.get(), values.data(), data(x), data(bias), x.dim_size(0),
                 data(y), parallel, pool, pool->NumThreads());
  }
};

class SparseLinearGradientOp : public SparseOp {
 public:
  using SparseOp::SparseOp;

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, check(context));
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    const Tensor& dy = context->input(3);
    const TensorShape expected({x.dim_size(0), kernel.dim_size(1)});
    OP_REQUIRES(context, dy.shape() == expected,
                InvalidArgument("dy must be ", expected.DebugString(), ". Received: ",
                                dy.shape().DebugString(), "."));
    Tensor *dx = nullptr, *gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, kernel.shape(), &gradient));
    const Tensor& mask = context->input(2);
    ThreadPool* pool = workers(context);
    const uint64_t content = fingerprint(bytes(mask), mask.NumElements(), pool);
    const Structure forward = structure(mask, content, false, pool);
    const Structure transposed = structure(mask, content, true, pool);
    Buffer values(size(transposed)), sums(size(forward));
    spdf_gather(transposed.get(), data(kernel), values.data(), parallel, pool);
    spdf_gradients(forward.get(), transposed.get(), values.data(), data(x), data(dy),
                   x.dim_size(0), data(dx), data(gradient), sums.data(), parallel, pool,
                   pool->NumThreads());
  }
};

// A kernel that is packed once for many products: its structure and its kept values.
struct PackedKernel {
  Structure structure;
  std::shared_ptr<const std::vector<float>> values;
  int64_t columns = 0, rows = 0;

  std::string TypeName() const { return "SpdfPackedKernel"; }
  std::string DebugString() const {
    return tensorflow::strings::StrCat("packed kernel (", columns, ", ", rows, ")");
  }
  // A packed kernel cannot be stored, because it exists in memory only.
  void Encode(tensorflow::VariantTensorData*) const {}
  bool Decode(const tensorflow::VariantTensorData&) { return false; }
};

class PackKernelOp : public SparseOp {
 public:
  using SparseOp::SparseOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    const Tensor& mask = context->input(1);
    OP_REQUIRES_OK(context, check_kernel(kernel, mask));
    ThreadPool* pool = workers(context);
    const uint64_t content = fingerprint(bytes(mask), mask.NumElements(), pool);
    PackedKernel packed;
    packed.structure = structure(mask, content, false, pool);
    packed.columns = kernel.dim_size(0);
    packed.rows = kernel.dim_size(1);
    auto values = std::make_shared<std::vector<float>>(size(packed.structure));
    spdf_gather(packed.structure.get(), data(kernel), values->data(), parallel, pool);
    packed.values = std::move(values);
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &output));
    output->scalar<tensorflow::Variant>()() = std::move(packed);
  }
};

class PackedLinearOp : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& bias = context->input(2);
    const PackedKernel* packed =
        context->input(1).dims() == 0
            ? context->input(1).scalar<tensorflow::Variant>()().get<PackedKernel>()
            : nullptr;
    OP_REQUIRES(context, packed, InvalidArgument("packed must come from SpdfPackKernel."));
    OP_REQUIRES(context,
                x.dims() == 2 && x.dim_size(1) == packed->columns && bias.dims() == 1 &&
                    bias.dim_size(0) == packed->rows,
                InvalidArgument("x must be (tokens, in), bias (out,), for the ",
                                packed->DebugString(), ". Received: x ",
                                x.shape().DebugString(), ", bias ",
                                bias.shape().DebugString(), "."));
    const TensorShape shape({x.dim_size(0), packed->rows});
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    ThreadPool* pool = workers(context);
    spdf_product(packed->structure.get(), packed->values->data(), data(x), data(bias),
                 x.dim_size(0), data(y), parallel, pool, pool->NumThreads());
  }
};

using tensorflow::shape_inference::InferenceContext;

}  // namespace

REGISTER_OP("SpdfSparseLinear")
    .Input("x: float")
    .Input("kernel: float")
    .Input("mask: bool")
    .Input("bias: float")
    .Output("y: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->Dim(c->input(0), 0), c->Dim(c->input(1), 1)));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfSparseLinearGradient")
    .Input("x: float")
    .Input("kernel: float")
    .Input("mask: bool")
    .Input("dy: float")
    .Output("dx: float")
    .Output("gradient: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      c->set_output(1, c->input(1));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfPackKernel")
    .Input("kernel: float")
    .Input("mask: bool")
    .Output("packed: variant")
    .SetIsStateful()  // prevents folding to a constant, which could not be stored
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_OP("SpdfPackedLinear")
    .Input("x: float")
    .Input("packed: variant")
    .Input("bias: float")
    .Output("y: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->Dim(c->input(0), 0), c->Dim(c->input(2), 0)));
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SpdfSparseLinear").Device(tensorflow::DEVICE_CPU),
                        SparseLinearOp);
REGISTER_KERNEL_BUILDER(
    Name("SpdfSparseLinearGradient").Device(tensorflow::DEVICE_CPU),
    SparseLinearGradientOp);
REGISTER_KERNEL_BUILDER(Name("SpdfPackKernel").Device(tensorflow::DEVICE_CPU),
                        PackKernelOp);
REGISTER_KERNEL_BUILDER(Name("SpdfPackedLinear").Device(tensorflow::DEVICE_CPU),
                        PackedLinearOp);
