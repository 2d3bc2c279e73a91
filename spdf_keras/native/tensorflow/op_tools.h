// What the operations share: threads, and the tensors that hold masks and layouts.

#ifndef SPDF_OP_TOOLS_H_
#define SPDF_OP_TOOLS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "masks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/framework/variant_tensor_data.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace spdf {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::thread::ThreadPool;

inline void on_workers(void* pool, int64_t count, void (*body)(void*, int64_t),
                       void* argument) {
  static_cast<ThreadPool*>(pool)->ParallelFor(
      count,
      ThreadPool::SchedulingParams(ThreadPool::SchedulingStrategy::kFixedBlockSize,
                                   absl::nullopt, 1),
      [body, argument](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) body(argument, i);
      });
}

inline ThreadPool* workers(OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->workers;
}

// The content of a scalar variant tensor. It cannot be stored, because it exists in memory
// only.
template <class Content>
struct InMemory {
  Content content;

  std::string TypeName() const { return Content::kName; }
  std::string DebugString() const { return Content::kName; }
  void Encode(tensorflow::VariantTensorData*) const {}
  bool Decode(const tensorflow::VariantTensorData&) { return false; }
};

// Where a kernel's kept values lie.
struct Index {
  static constexpr char kName[] = "SpdfIndex";
  Mask mask;
};

// A kernel's kept values, ready for products.
struct Layout {
  static constexpr char kName[] = "SpdfLayout";
  Mask mask;
  std::shared_ptr<const spdf_layout> layout;
  tensorflow::DataType type;
  bool has_gradients;
};

// Returns the content of a tensor, or NULL if it holds something else.
template <class Content>
const Content* content_of(const Tensor& tensor) {
  if (tensor.dims() != 0) return nullptr;
  const auto* held = tensor.scalar<tensorflow::Variant>()().get<InMemory<Content>>();
  return held ? &held->content : nullptr;
}

template <class Content>
void set_output(OpKernelContext* context, int index, Content content) {
  Tensor* output = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(index, TensorShape({}), &output));
  output->scalar<tensorflow::Variant>()() = InMemory<Content>{std::move(content)};
}

}  // namespace spdf

#endif  // SPDF_OP_TOOLS_H_
