// Products of few tokens with a dense kernel, on the CPU.

#include "dense.h"
#include "op_tools.h"
#include "parallel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace spdf;
using tensorflow::shape_inference::InferenceContext;

class DenseLinearOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &tiles = context->input(1);
    const Tensor& bias = context->input(2);
    constexpr int64_t kTile = SPDF_DENSE_TILE;
    OP_REQUIRES(context, x.dims() == 2 && bias.dims() == 1,
                InvalidArgument("x must be a matrix and bias a vector. Received: x ",
                                x.shape().DebugString(), ", bias ",
                                bias.shape().DebugString(), "."));
    const int64_t tokens = x.dim_size(0), in = x.dim_size(1), out = bias.dim_size(0);
    const TensorShape expected({(out + kTile - 1) / kTile, in, kTile});
    OP_REQUIRES(context, tiles.shape() == expected,
                InvalidArgument("tiles must be ", expected.DebugString(),
                                ". Received: ", tiles.shape().DebugString(), "."));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({tokens, out}), &y));
    ThreadPool* pool = workers(context);
    spdf_dense_product(tiles.flat<float>().data(), x.flat<float>().data(),
                       bias.flat<float>().data(), tokens, in, out,
                       y->flat<float>().data(), on_workers, pool, pool->NumThreads());
  }
};

class DenseTilesOp : public tensorflow::OpKernel {
 public:
  explicit DenseTilesOp(tensorflow::OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("transposed", &transposed_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    OP_REQUIRES(context, kernel.dims() == 2,
                InvalidArgument("kernel must be a matrix. Received: ",
                                kernel.shape().DebugString(), "."));
    const int64_t in = kernel.dim_size(transposed_), out = kernel.dim_size(!transposed_);
    constexpr int64_t kTile = SPDF_DENSE_TILE;
    Tensor* tiles = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, TensorShape({(out + kTile - 1) / kTile, in, kTile}), &tiles));
    spdf_dense_tiles(kernel.flat<float>().data(), transposed_, in, out,
                     tiles->flat<float>().data(), on_workers, workers(context));
  }

 private:
  bool transposed_;
};

class BestOp : public tensorflow::OpKernel {
 public:
  explicit BestOp(tensorflow::OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("k", &k_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES(context, x.dims() == 2 && 0 < k_ && k_ <= x.dim_size(1),
                InvalidArgument("x must be (rows, at least k). Received: x ",
                                x.shape().DebugString(), ", k ", k_, "."));
    const int64_t rows = x.dim_size(0), count = x.dim_size(1);
    Tensor *values = nullptr, *indices = nullptr, *norms = nullptr;
    const TensorShape shape({rows, k_});
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &values));
    OP_REQUIRES_OK(context, context->allocate_output(1, shape, &indices));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({rows}), &norms));
    run(on_workers, workers(context), rows, [&](int64_t row) {
      norms->flat<float>()(row) =
          spdf_best(x.flat<float>().data() + row * count, count, k_,
                    values->flat<float>().data() + row * k_,
                    indices->flat<tensorflow::int32>().data() + row * k_);
    });
  }

 private:
  int64_t k_;
};

}  // namespace

REGISTER_OP("SpdfBest")
    .Attr("k: int")
    .Input("x: float")
    .Output("values: float")
    .Output("indices: int32")
    .Output("norms: float")
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle x;
      int64_t k;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->GetAttr("k", &k));
      c->set_output(0, c->Matrix(c->Dim(x, 0), k));
      c->set_output(1, c->Matrix(c->Dim(x, 0), k));
      c->set_output(2, c->Vector(c->Dim(x, 0)));
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SpdfBest").Device(tensorflow::DEVICE_CPU), BestOp);

REGISTER_OP("SpdfDenseTiles")
    .Attr("transposed: bool = false")
    .Input("kernel: float")
    .Output("tiles: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->MakeShape({c->UnknownDim(), c->UnknownDim(), SPDF_DENSE_TILE}));
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SpdfDenseTiles").Device(tensorflow::DEVICE_CPU),
                        DenseTilesOp);

REGISTER_OP("SpdfDenseLinear")
    .Input("x: float")
    .Input("tiles: float")
    .Input("bias: float")
    .Output("y: float")
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle x, bias;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &bias));
      c->set_output(0, c->Matrix(c->Dim(x, 0), c->Dim(bias, 0)));
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SpdfDenseLinear").Device(tensorflow::DEVICE_CPU),
                        DenseLinearOp);
