// Products with a kernel that is laid out, and their gradients, on the CPU.

#include <type_traits>
#include <vector>

#include "elementwise.h"
#include "op_tools.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace spdf;
using tensorflow::bfloat16;
using tensorflow::DataTypeString;
using tensorflow::DataTypeToEnum;
using tensorflow::OpKernelConstruction;
using tensorflow::shape_inference::InferenceContext;

template <class T>
constexpr spdf_type type_of() {
  return std::is_same_v<T, float> ? SPDF_FLOAT32 : SPDF_BFLOAT16;
}

// Checks `x` and `layout`.
template <class T>
tensorflow::Status check(const Tensor& x, const Layout* layout) {
  if (!layout) return InvalidArgument("layout must come from SpdfLayOut.");
  if (layout->type != DataTypeToEnum<T>::value)
    return InvalidArgument("layout must be in ", DataTypeString(DataTypeToEnum<T>::value),
                           ", as x is. Received: ", DataTypeString(layout->type), ".");
  const int64_t in = spdf_mask_in(layout->mask.get());
  if (x.dims() != 2 || x.dim_size(1) != in)
    return InvalidArgument("x must be (tokens, ", in, "). Received: ",
                           x.shape().DebugString(), ".");
  return tensorflow::OkStatus();
}

template <class T>
class SparseLinearOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Layout* layout = content_of<Layout>(context->input(2));
    const Tensor& bias = context->input(3);
    OP_REQUIRES_OK(context, check<T>(x, layout));
    const int64_t out = spdf_mask_out(layout->mask.get());
    OP_REQUIRES(context, bias.shape() == TensorShape({out}),
                InvalidArgument("bias must be (", out, "). Received: ",
                                bias.shape().DebugString(), "."));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({x.dim_size(0), out}), &y));
    const auto biases = bias.flat<T>();
    const std::vector<float> wide(biases.data(), biases.data() + out);
    ThreadPool* pool = workers(context);
    spdf_layout_product(layout->layout.get(), x.flat<T>().data(), wide.data(), x.dim_size(0),
                y->flat<T>().data(), on_workers, pool, pool->NumThreads());
  }
};

template <class T>
class SparseLinearGradientOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Layout* layout = content_of<Layout>(context->input(1));
    const Tensor& dy = context->input(2);
    OP_REQUIRES_OK(context, check<T>(x, layout));
    OP_REQUIRES(context, layout->has_gradients,
                InvalidArgument("layout must be laid out with gradients."));
    const spdf_mask* mask = layout->mask.get();
    const TensorShape expected({x.dim_size(0), spdf_mask_out(mask)});
    OP_REQUIRES(context, dy.shape() == expected,
                InvalidArgument("dy must be ", expected.DebugString(), ". Received: ",
                                dy.shape().DebugString(), "."));
    Tensor *dx = nullptr, *gradient = nullptr, *dbias = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(
                                1, TensorShape({spdf_mask_kept(mask)}), &gradient));
    OP_REQUIRES_OK(context, context->allocate_output(
                                2, TensorShape({spdf_mask_out(mask)}), &dbias));
    ThreadPool* pool = workers(context);
    std::vector<float> sums(spdf_mask_out(mask));
    spdf_token_sums(type_of<T>(), dy.flat<T>().data(), x.dim_size(0), sums.size(),
                    sums.data(), on_workers, pool);
    auto biases = dbias->flat<T>();
    for (size_t i = 0; i < sums.size(); ++i) biases(i) = static_cast<T>(sums[i]);
    spdf_layout_gradients(layout->layout.get(), x.flat<T>().data(), dy.flat<T>().data(),
                          x.dim_size(0), dx->flat<T>().data(),
                          gradient->flat<float>().data(), on_workers, pool,
                          pool->NumThreads());
  }
};

// GELU of `x`, or `dy` times its derivative at `x`.
template <class T>
class GeluOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const T* from = x.flat<T>().data();
    T* to = y->flat<T>().data();
    ThreadPool* pool = workers(context);
    if (context->num_inputs() == 1) {
      spdf_gelu(type_of<T>(), from, x.NumElements(), to, on_workers, pool);
      return;
    }
    const Tensor& dy = context->input(1);
    OP_REQUIRES(context, dy.shape() == x.shape(),
                InvalidArgument("dy must be ", x.shape().DebugString(), ". Received: ",
                                dy.shape().DebugString(), "."));
    spdf_gelu_gradient(type_of<T>(), from, dy.flat<T>().data(), x.NumElements(), to,
                       on_workers, pool);
  }
};

}  // namespace

// `kept` is not read: the gradient of the kept values flows to it.
REGISTER_OP("SpdfSparseLinear")
    .Attr("T: {float, bfloat16}")
    .Input("x: T")
    .Input("kept: float")
    .Input("layout: variant")
    .Input("bias: T")
    .Output("y: T")
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle x, bias;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &bias));
      c->set_output(0, c->Matrix(c->Dim(x, 0), c->Dim(bias, 0)));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfSparseLinearGradient")
    .Attr("T: {float, bfloat16}")
    .Input("x: T")
    .Input("layout: variant")
    .Input("dy: T")
    .Output("dx: T")
    .Output("gradient: float")
    .Output("dbias: T")
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle dy;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &dy));
      c->set_output(0, c->input(0));
      c->set_output(1, c->Vector(c->UnknownDim()));
      c->set_output(2, c->Vector(c->Dim(dy, 1)));
      return tensorflow::OkStatus();
    });

REGISTER_OP("SpdfGelu")
    .Attr("T: {float, bfloat16}")
    .Input("x: T")
    .Output("y: T")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

REGISTER_OP("SpdfGeluGradient")
    .Attr("T: {float, bfloat16}")
    .Input("x: T")
    .Input("dy: T")
    .Output("dx: T")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

#define REGISTER(T)                                                                     \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("SpdfSparseLinear").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),   \
      SparseLinearOp<T>);                                                               \
  REGISTER_KERNEL_BUILDER(Name("SpdfSparseLinearGradient")                              \
                              .Device(tensorflow::DEVICE_CPU)                           \
                              .TypeConstraint<T>("T"),                                  \
                          SparseLinearGradientOp<T>);                                   \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("SpdfGelu").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),           \
      GeluOp<T>);                                                                       \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("SpdfGeluGradient").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),   \
      GeluOp<T>)
REGISTER(float);
REGISTER(bfloat16);

// Limits the loops to an instruction set, as tests do; the symbols of the core are hidden.
extern "C" const char* spdf_operations_instruction_set(const char* limit) {
  return spdf_instruction_set(limit);
}
