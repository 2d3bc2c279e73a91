// Computes the layers that the delegate has taken.

#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

namespace spdf {
namespace {

// One fully connected layer: indices of its tensors, -1 for no bias.
struct Layer {
  PackedWeight weight;
  int x, y, bias;
  TfLiteFusedActivation activation;
  bool keep_num_dims;
};

// The layers of one part of the graph.
struct Layers {
  Delegate* delegate;
  std::vector<Layer> layers;
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
    const auto weight = made->delegate->by_node.find(index);
    // Other nodes only unpack a weight.
    if (weight == made->delegate->by_node.end() ||
        context->GetNodeAndRegistration(context, index, &node, &registration))
      continue;
    const auto* layer = static_cast<const TfLiteFullyConnectedParams*>(node->builtin_data);
    made->layers.push_back({weight->second, node->inputs->data[0], node->outputs->data[0],
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
  const int64_t rows = spdf_packed_rows(layer.weight.get());
  const int size = layer.keep_num_dims ? x.dims->size : 2;
  auto* shape = static_cast<TfLiteIntArray*>(
      std::malloc(sizeof(TfLiteIntArray) + size * sizeof(int)));
  shape->size = size;
  if (layer.keep_num_dims)
    std::copy_n(x.dims->data, size, shape->data);
  else
    shape->data[0] = static_cast<int>(size_of(x) / spdf_packed_columns(layer.weight.get()));
  shape->data[size - 1] = static_cast<int>(rows);
  return shape;
}

TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* made = static_cast<Layers*>(node->user_data);
  for (const Layer& layer : made->layers) {
    const TfLiteTensor& x = context->tensors[layer.x];
    TfLiteTensor& y = context->tensors[layer.y];
    const int64_t columns = spdf_packed_columns(layer.weight.get());
    const int64_t rows = spdf_packed_rows(layer.weight.get());
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
  made->delegate->weights.release_indices();
  const auto memory = [&](int tensor) {
    const auto inner = made->inner.find(tensor);
    return inner != made->inner.end() ? inner->second.data()
                                      : static_cast<float*>(context->tensors[tensor].data);
  };
  for (const Layer& layer : made->layers) {
    const int64_t size = size_of(context->tensors[layer.x]);
    const int64_t tokens = size / spdf_packed_columns(layer.weight.get());
    if (!tokens) continue;
    float* y = memory(layer.y);
    spdf_packed_product(layer.weight.get(), memory(layer.x),
                        layer.bias < 0 ? nullptr : memory(layer.bias), tokens, y,
                        Pool::parallel, pool, pool->threads());
    activate(layer.activation, y, tokens * spdf_packed_rows(layer.weight.get()));
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
  made.builtin_code = 51;  // kTfLiteBuiltinDelegate
  made.custom_name = "SpdfSparse";
  made.version = 1;
  return made;
}

}  // namespace spdf
