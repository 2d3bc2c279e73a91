// The update of AdamW as a TensorFlow operation on the CPU.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "adamw.h"
#include "op_tools.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace spdf;
using tensorflow::Var;

// Makes a variable's buffer its own: a read that shares it keeps the old values.
tensorflow::Status detach(OpKernelContext* context, Tensor* tensor) {
  if (tensor->RefCountIsOne()) return tensorflow::OkStatus();
  Tensor own;
  TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &own));
  std::memcpy(own.data(), tensor->data(), tensor->TotalBytes());
  *tensor = own;
  return tensorflow::OkStatus();
}

// Returns an input that is there once or not at all.
const Tensor* only(OpKernelContext* context, const char* name) {
  tensorflow::OpInputList list;
  if (!context->input_list(name, &list).ok() || list.size() == 0) return nullptr;
  return &list[0];
}

class ApplyAdamWOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Var> variables[3];  // weights, m and v
    std::vector<tensorflow::mutex*> mutexes;
    for (int i = 0; i < 3; ++i) {
      OP_REQUIRES_OK(context,
                     LookupResource(context, tensorflow::HandleFromInput(context, i),
                                    &variables[i]));
      mutexes.push_back(variables[i]->mu());
    }
    // One order for all operations, so that none waits for another in a circle.
    std::sort(mutexes.begin(), mutexes.end());
    OP_REQUIRES(context,
                std::unique(mutexes.begin(), mutexes.end()) == mutexes.end(),
                InvalidArgument("var, m and v must be three variables."));
    tensorflow::mutex_lock first(*mutexes[0]), second(*mutexes[1]), third(*mutexes[2]);
    float scalars[6];
    for (int i = 0; i < 6; ++i) scalars[i] = context->input(4 + i).scalar<float>()();
    const Tensor& gradient = context->input(3);
    const Tensor* mask = only(context, "mask");
    const Tensor* cohort = only(context, "cohort");
    const Tensor* alphas = only(context, "alphas");
    const Tensor* epsilons = only(context, "epsilons");
    Tensor* tensors[3];
    for (int i = 0; i < 3; ++i) {
      tensors[i] = variables[i]->tensor();
      OP_REQUIRES(context,
                  tensors[i]->dtype() == tensorflow::DT_FLOAT && tensors[i]->IsInitialized(),
                  InvalidArgument("var, m and v must be float32 variables with values."));
    }
    const int64_t count = tensors[0]->NumElements(), packed = gradient.NumElements();
    OP_REQUIRES(context,
                tensors[1]->NumElements() == packed && tensors[2]->NumElements() == packed &&
                    (!mask || mask->shape() == tensors[0]->shape()),
                InvalidArgument("m, v and the gradient must have an entry for each kept "
                                "weight. Received: var ",
                                tensors[0]->shape().DebugString(), ", m ",
                                tensors[1]->shape().DebugString(), ", gradient ",
                                gradient.shape().DebugString(), "."));
    OP_REQUIRES(context,
                !cohort || (cohort->NumElements() == packed && alphas && epsilons &&
                            alphas->NumElements() == epsilons->NumElements()),
                InvalidArgument("cohort must have an entry for each moment, and alphas and "
                                "epsilons one for each cohort."));
    spdf_cohorts cohorts;
    if (cohort) {
      cohorts = {cohort->flat<tensorflow::uint16>().data(), alphas->flat<float>().data(),
                 epsilons->flat<float>().data(), alphas->NumElements()};
      const uint16_t largest = spdf_largest_cohort(&cohorts, packed);
      OP_REQUIRES(context, largest < cohorts.count || packed == 0,
                  InvalidArgument("cohort must be below ", cohorts.count, ". Received: ",
                                  largest, "."));
    }
    for (Tensor* tensor : tensors) OP_REQUIRES_OK(context, detach(context, tensor));
    const spdf_move move = {scalars[0], scalars[1], scalars[2],
                            scalars[3], scalars[4], scalars[5]};
    float* to[3];
    for (int i = 0; i < 3; ++i) to[i] = static_cast<float*>(tensors[i]->data());
    const int64_t kept = spdf_adamw(
        &move, cohort ? &cohorts : nullptr, mask ? static_cast<const uint8_t*>(mask->data()) : nullptr, count, packed,
        gradient.flat<float>().data(), to[0], to[1], to[2], on_workers, workers(context));
    OP_REQUIRES(context, kept == packed,
                InvalidArgument("the gradient must be (", kept, "), one entry for each kept ",
                                "weight. Received: ", gradient.shape().DebugString(), "."));
  }
};

}  // namespace

REGISTER_OP("SpdfApplyAdamW")
    .Attr("masks: int >= 0")
    .Attr("counts: int >= 0")
    .Input("var: resource")
    .Input("m: resource")
    .Input("v: resource")
    .Input("gradient: float")
    .Input("factor: float")
    .Input("shrink: float")
    .Input("beta_1: float")
    .Input("beta_2: float")
    .Input("alpha: float")
    .Input("epsilon: float")
    .Input("mask: masks * bool")  // one, or none: then all weights are kept
    .Input("cohort: counts * uint16")  // one, or none: then alpha and epsilon are all
    .Input("alphas: counts * float")
    .Input("epsilons: counts * float")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle scalar;
      for (int i = 4; i < 10; ++i)
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SpdfApplyAdamW").Device(tensorflow::DEVICE_CPU),
                        ApplyAdamWOp);
