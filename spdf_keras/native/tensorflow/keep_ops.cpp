// Operations between kernels and their kept values, on the CPU.

#include <mutex>

#include "masks.h"
#include "op_tools.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace spdf;
using tensorflow::OpKernelConstruction;
using tensorflow::shape_inference::InferenceContext;

tensorflow::Status check_kept(const Tensor& kept, const Index* index) {
  if (!index) return InvalidArgument("index must come from SpdfIndex.");
  const int64_t count = spdf_mask_kept(index->mask.get());
  if (kept.shape() != TensorShape({count}))
    return InvalidArgument("kept must be (", count, "). Received: ",
                           kept.shape().DebugString(), ".");
  return tensorflow::OkStatus();
}

class IndexOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& mask = context->input(0);
    OP_REQUIRES(context,
                mask.dims() == 2 && mask.NumElements() > 0 &&
                    mask.NumElements() <= INT32_MAX,
                InvalidArgument("mask must be (in, out). Received: ",
                                mask.shape().DebugString(), "."));
    const auto* bytes = reinterpret_cast<const uint8_t*>(mask.flat<bool>().data());
    const Mask current = masks().get(bytes, mask.dim_size(0), mask.dim_size(1), on_workers,
                                     workers(context));
    set_output(context, 0, Index{current});
    std::lock_guard<std::mutex> lock(mutex_);
    last_ = current;
  }

 private:
  std::mutex mutex_;
  Mask last_;  // is kept alive between calls
};

class KeepOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    const Index* index = content_of<Index>(context->input(1));
    OP_REQUIRES(context, index, InvalidArgument("index must come from SpdfIndex."));
    const spdf_mask* mask = index->mask.get();
    const TensorShape expected({spdf_mask_in(mask), spdf_mask_out(mask)});
    OP_REQUIRES(context, kernel.shape() == expected,
                InvalidArgument("kernel must be ", expected.DebugString(),
                                ", as its mask is. Received: ",
                                kernel.shape().DebugString(), "."));
    Tensor* kept = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({spdf_mask_kept(mask)}), &kept));
    spdf_keep(mask, kernel.flat<float>().data(), kept->flat<float>().data(), on_workers,
              workers(context));
  }
};

class SpreadOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& kept = context->input(0);
    const Index* index = content_of<Index>(context->input(1));
    OP_REQUIRES_OK(context, check_kept(kept, index));
    const spdf_mask* mask = index->mask.get();
    Tensor* kernel = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, TensorShape({spdf_mask_in(mask), spdf_mask_out(mask)}), &kernel));
    spdf_spread(mask, kept.flat<float>().data(), kernel->flat<float>().data(), on_workers,
                workers(context));
  }
};

class LayOutOp : public tensorflow::OpKernel {
 public:
  explicit LayOutOp(OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("dtype", &type_));
    OP_REQUIRES_OK(construction, construction->GetAttr("gradients", &gradients_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kept = context->input(0);
    const Index* index = content_of<Index>(context->input(1));
    OP_REQUIRES_OK(context, check_kept(kept, index));
    const spdf_mask* mask = index->mask.get();
    const spdf_type type =
        type_ == tensorflow::DT_BFLOAT16 ? SPDF_BFLOAT16 : SPDF_FLOAT32;
    std::shared_ptr<const spdf_layout> layout(
        spdf_lay_out(mask, kept.flat<float>().data(), type,
                     gradients_ ? SPDF_PRODUCT | SPDF_GRADIENTS : SPDF_PRODUCT, on_workers,
                     workers(context)),
        [](const spdf_layout* l) { spdf_layout_free(const_cast<spdf_layout*>(l)); });
    set_output(context, 0, Layout{index->mask, layout, type_, gradients_});
  }

 private:
  tensorflow::DataType type_;
  bool gradients_;
};

}  // namespace

REGISTER_OP("SpdfIndex")
    .Input("mask: bool")
    .Output("index: variant")
    .SetIsStateful()  // prevents folding to a constant, which could not be stored
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_OP("SpdfKeep")
    .Input("kernel: float")
    .Input("index: variant")
    .Output("kept: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(c->UnknownDim()));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfSpread")
    .Input("kept: float")
    .Input("index: variant")
    .Output("kernel: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->UnknownDim(), c->UnknownDim()));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfLayOut")
    .Attr("dtype: {float, bfloat16}")
    .Attr("gradients: bool = true")
    .Input("kept: float")
    .Input("index: variant")
    .Output("layout: variant")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_KERNEL_BUILDER(Name("SpdfIndex").Device(tensorflow::DEVICE_CPU), IndexOp);
REGISTER_KERNEL_BUILDER(Name("SpdfKeep").Device(tensorflow::DEVICE_CPU), KeepOp);
REGISTER_KERNEL_BUILDER(Name("SpdfSpread").Device(tensorflow::DEVICE_CPU), SpreadOp);
REGISTER_KERNEL_BUILDER(Name("SpdfLayOut").Device(tensorflow::DEVICE_CPU), LayOutOp);
