// The products as TensorFlow operations, on the CPU, float32.

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "sparse.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::thread::ThreadPool;

using Structure = std::shared_ptr<const spdf_structure>;

// A fingerprint of a mask, in one pass at the speed of memory.
uint64_t fingerprint(const uint8_t* bytes, int64_t count) {
  uint64_t sums[4] = {1, 2, 3, 4};
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    for (int lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, bytes + i + 8 * lane, 8);
      sums[lane] = (sums[lane] ^ word) * 0x9E3779B97F4A7C15ull;
      sums[lane] ^= sums[lane] >> 29;
    }
  uint64_t sum = count;
  for (; i < count; ++i) sum = (sum ^ bytes[i]) * 0x100000001B3ull;
  for (uint64_t lane : sums) sum = (sum ^ lane) * 0x9E3779B97F4A7C15ull;
  return sum ^ (sum >> 32);
}

// The structure of a mask, shared by all operations that meet the same one.
class Structures {
 public:
  // Of a kernel `(columns, rows)`; `transposed` is that of its transpose.
  // `content` is the mask's fingerprint.
  Structure get(const uint8_t* mask, uint64_t content, int64_t columns, int64_t rows,
                bool transposed) {
    const Key key{content, columns, rows, transposed};
    std::lock_guard<std::mutex> lock(mutex_);
    if (Structure known = known_[key].lock()) return known;
    spdf_structure* made = transposed
                               ? spdf_structure_create(mask, columns, rows, rows, 1)
                               : spdf_structure_create(mask, rows, columns, 1, rows);
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

void parallel(void* pool, int64_t count, void (*body)(void*, int64_t), void* argument) {
  static_cast<ThreadPool*>(pool)->ParallelFor(
      count,
      ThreadPool::SchedulingParams(ThreadPool::SchedulingStrategy::kFixedBlockSize,
                                   absl::nullopt, 1),
      [body, argument](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) body(argument, i);
      });
}

ThreadPool* workers(OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->workers;
}

const float* data(const Tensor& tensor) { return tensor.flat<float>().data(); }
float* data(Tensor* tensor) { return tensor->flat<float>().data(); }

class SparseOp : public tensorflow::OpKernel {
 public:
  explicit SparseOp(OpKernelConstruction* construction)
      : OpKernel(construction) {}

 protected:
  // Checks `x`, `kernel` and `mask`, the first three inputs.
  tensorflow::Status check(OpKernelContext* context) {
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    const Tensor& mask = context->input(2);
    if (x.dims() != 2 || kernel.dims() != 2 || kernel.shape() != mask.shape() ||
        x.dim_size(1) != kernel.dim_size(0) || kernel.NumElements() == 0)
      return InvalidArgument(
          "x must be (tokens, in), kernel and mask (in, out). Received: x ",
          x.shape().DebugString(), ", kernel ", kernel.shape().DebugString(),
          ", mask ", mask.shape().DebugString(), ".");
    return tensorflow::OkStatus();
  }

  static const uint8_t* bytes(const Tensor& mask) {
    return reinterpret_cast<const uint8_t*>(mask.flat<bool>().data());
  }

  Structure structure(const Tensor& mask, uint64_t content, bool transposed) {
    Structure found = structures().get(bytes(mask), content, mask.dim_size(0),
                                       mask.dim_size(1), transposed);
    std::lock_guard<std::mutex> lock(mutex_);
    kept_[transposed] = found;  // or it would go with the last call that used it
    return found;
  }

  // The kept values of the kernel, in the structure's order.
  tensorflow::Status gather(OpKernelContext* context, const Structure& structure,
                            Tensor* values) {
    const TensorShape shape({spdf_structure_size(structure.get())});
    TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT, shape, values));
    spdf_gather(structure.get(), data(context->input(1)), data(values), parallel,
                workers(context));
    return tensorflow::OkStatus();
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
    const uint64_t content = fingerprint(bytes(mask), mask.NumElements());
    const Structure forward = structure(mask, content, false);
    Tensor values;
    OP_REQUIRES_OK(context, gather(context, forward, &values));
    ThreadPool* pool = workers(context);
    spdf_product(forward.get(), data(&values), data(x), data(bias), x.dim_size(0),
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
    const uint64_t content = fingerprint(bytes(mask), mask.NumElements());
    const Structure forward = structure(mask, content, false);
    const Structure transposed = structure(mask, content, true);
    Tensor values, sums;
    OP_REQUIRES_OK(context, gather(context, transposed, &values));
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({spdf_structure_size(forward.get())}), &sums));
    ThreadPool* pool = workers(context);
    spdf_gradients(forward.get(), transposed.get(), data(&values), data(x), data(dy),
                   x.dim_size(0), data(dx), data(&sums), parallel, pool,
                   pool->NumThreads());
    spdf_scatter(forward.get(), data(&sums), data(gradient), parallel, pool);
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

REGISTER_KERNEL_BUILDER(Name("SpdfSparseLinear").Device(tensorflow::DEVICE_CPU),
                        SparseLinearOp);
REGISTER_KERNEL_BUILDER(
    Name("SpdfSparseLinearGradient").Device(tensorflow::DEVICE_CPU),
    SparseLinearGradientOp);
