// Computes the layers and blends that the delegate has taken.

#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace spdf {
namespace {

// One fully connected layer: indices of its tensors, -1 for no bias.
struct Layer {
  Taken taken;
  int x, y, bias;
  TfLiteFusedActivation activation;
  bool keep_num_dims;
};

// The layers and blends of one part of the graph. They do not read each other's results
// except for layers, which come in the order of the graph.
struct Layers {
  Delegate* delegate;
  std::vector<Layer> layers;
  std::vector<Blend> blends;
  // Results that only this operator reads; the runtime gives them no memory.
  std::map<int, std::vector<float>> inner;
};

bool contains(const TfLiteIntArray* array, int value) {
  return std::find(array->data, array->data + array->size, value) !=
         array->data + array->size;
}

void* init(TfLiteContext* context, const char* buffer, size_t) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* made = new Layers;
  made->delegate = static_cast<Delegate*>(params->delegate->data_);
  for (int i = 0; i < params->nodes_to_replace->size; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    const int index = params->nodes_to_replace->data[i];
    const auto blend = made->delegate->blends.find(index);
    if (blend != made->delegate->blends.end()) made->blends.push_back(blend->second);
    const auto taken = made->delegate->by_node.find(index);
    // Other nodes only unpack a weight, or compute a part of a blend.
    if (taken == made->delegate->by_node.end() ||
        context->GetNodeAndRegistration(context, index, &node, &registration))
      continue;
    const auto* layer = static_cast<const TfLiteFullyConnectedParams*>(node->builtin_data);
    made->layers.push_back({taken->second, node->inputs->data[0], node->outputs->data[0],
                            node->inputs->size > 2 ? node->inputs->data[2] : -1,
                            layer->activation, layer->keep_num_dims});
    const int y = made->layers.back().y;
    if (!contains(params->output_tensors, y)) made->inner[y] = {};
  }
  return made;
}

void release(TfLiteContext*, void* layers) { delete static_cast<Layers*>(layers); }

int64_t size_of(const TfLiteTensor& tensor) {
  int64_t size = 1;
  for (int i = 0; i < tensor.dims->size; ++i) size *= tensor.dims->data[i];
  return size;
}

// Returns the shape of a layer's result for a shape of its input.
TfLiteIntArray* result_shape(const Layer& layer, const TfLiteTensor& x) {
  const int64_t rows = spdf_packed_rows(layer.taken.weight.get());
  const int size = layer.keep_num_dims ? x.dims->size : 2;
  auto* shape = static_cast<TfLiteIntArray*>(
      std::malloc(sizeof(TfLiteIntArray) + size * sizeof(int)));
  shape->size = size;
  if (layer.keep_num_dims)
    std::copy_n(x.dims->data, size, shape->data);
  else
    shape->data[0] = static_cast<int>(size_of(x) / spdf_packed_columns(layer.taken.weight.get()));
  shape->data[size - 1] = static_cast<int>(rows);
  return shape;
}

TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* made = static_cast<Layers*>(node->user_data);
  for (const Blend& blend : made->blends) {
    const TfLiteIntArray* dims = context->tensors[blend.cache].dims;
    const size_t bytes = sizeof(TfLiteIntArray) + dims->size * sizeof(int);
    auto* shape = static_cast<TfLiteIntArray*>(std::malloc(bytes));
    std::memcpy(shape, dims, bytes);
    if (context->ResizeTensor(context, &context->tensors[blend.y], shape))
      return kTfLiteError;
  }
  for (const Layer& layer : made->layers) {
    const TfLiteTensor& x = context->tensors[layer.x];
    TfLiteTensor& y = context->tensors[layer.y];
    const int64_t columns = spdf_packed_columns(layer.taken.weight.get());
    const int64_t rows = spdf_packed_rows(layer.taken.weight.get());
    if (x.dims->size < 1 || size_of(x) % columns ||
        (layer.keep_num_dims && x.dims->data[x.dims->size - 1] != columns)) {
      context->ReportError(context, "spdf: an input of %lld values does not fit a weight of "
                           "%lld columns.", static_cast<long long>(size_of(x)),
                           static_cast<long long>(columns));
      return kTfLiteError;
    }
    if (layer.bias >= 0 && size_of(context->tensors[layer.bias]) != rows) {
      context->ReportError(context, "spdf: a bias must have %lld values.",
                           static_cast<long long>(rows));
      return kTfLiteError;
    }
    TfLiteIntArray* shape = result_shape(layer, x);
    const auto inner = made->inner.find(layer.y);
    if (inner != made->inner.end()) {
      inner->second.resize(size_of(x) / columns * rows);
      std::free(y.dims);
      y.dims = shape;
    } else if (context->ResizeTensor(context, &y, shape)) {
      return kTfLiteError;
    }
  }
  return kTfLiteOk;
}

void activate(TfLiteFusedActivation activation, float* y, int64_t size) {
  if (activation == kTfLiteActNone) return;
  const float low = activation == kTfLiteActReluN1To1 ? -1.0f : 0.0f;
  const float high = activation == kTfLiteActRelu6       ? 6.0f
                     : activation == kTfLiteActReluN1To1 ? 1.0f
                                                         : INFINITY;
  for (int64_t i = 0; i < size; ++i) y[i] = std::min(std::max(y[i], low), high);
}

TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* node) {
  auto* made = static_cast<Layers*>(node->user_data);
  Pool* pool = made->delegate->pool.get();
  const auto memory = [&](int tensor) {
    const auto inner = made->inner.find(tensor);
    return inner != made->inner.end() ? inner->second.data()
                                      : static_cast<float*>(context->tensors[tensor].data);
  };
  for (const Blend& blend : made->blends) run_blend(context, blend, pool);
  for (Layer& layer : made->layers) {
    if (layer.taken.index) {
      made->delegate->weights.release_index(layer.taken.key, layer.taken.index);
      layer.taken.index = nullptr;
    }
    const int64_t size = size_of(context->tensors[layer.x]);
    const int64_t tokens = size / spdf_packed_columns(layer.taken.weight.get());
    if (!tokens) continue;
    float* y = memory(layer.y);
    spdf_packed_product(layer.taken.weight.get(), memory(layer.x),
                        layer.bias < 0 ? nullptr : memory(layer.bias), tokens, y,
                        Pool::parallel, pool, pool->threads());
    activate(layer.activation, y, tokens * spdf_packed_rows(layer.taken.weight.get()));
  }
  return kTfLiteOk;
}

}  // namespace

TfLiteRegistration layers_operator() {
  TfLiteRegistration made{};
  made.init = init;
  made.free = release;
  made.prepare = prepare;
  made.invoke = invoke;
  made.builtin_code = kTfLiteBuiltinDelegate;
  made.custom_name = "SpdfSparse";
  made.version = 1;
  return made;
}

}  // namespace spdf
