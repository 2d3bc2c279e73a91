// A LiteRT delegate that skips the zeros of fully connected layers.
//
//   Interpreter(path, experimental_delegates=[load_delegate("libspdf_delegate.so")])
//
// It takes each fully connected layer whose constant weight has enough zeros, whether the
// file stores it dense or as CSR behind DENSIFY, as float32, float16 or int8, and behind
// DEQUANTIZE or not. The runtime's own delegate takes what is left.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "abi.h"
#include "layers.h"
#include "runtime.h"

namespace {

using spdf::Delegate;
using spdf::Stored;

// Layers that the delegates of this process have taken.
std::atomic<int> layers_taken{0};

// The nodes of a graph that concern the delegate.
struct Graph {
  std::vector<int> nodes;
  std::map<int, int> producers;  // DENSIFY or DEQUANTIZE that computes a tensor
  std::map<int, int> multiplications;  // MUL that computes a tensor
  std::vector<int> additions;
  std::map<int, int> readers;    // number of nodes that read a tensor
};

bool read_graph(TfLiteContext* context, Graph* graph) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan)) return false;
  graph->nodes.assign(plan->data, plan->data + plan->size);
  for (int index : graph->nodes) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, index, &node, &registration)) return false;
    if ((registration->builtin_code == kTfLiteBuiltinDensify ||
         registration->builtin_code == kTfLiteBuiltinDequantize) &&
        node->outputs->size == 1)
      graph->producers[node->outputs->data[0]] = index;
    if (registration->builtin_code == kTfLiteBuiltinMul && node->outputs->size == 1)
      graph->multiplications[node->outputs->data[0]] = index;
    if (registration->builtin_code == kTfLiteBuiltinAdd) graph->additions.push_back(index);
    for (int i = 0; i < node->inputs->size; ++i) ++graph->readers[node->inputs->data[i]];
  }
  return true;
}

// Whether a node is a layer of floats that this library computes as the runtime does.
bool is_layer(TfLiteContext* context, const TfLiteNode& node,
              const TfLiteRegistration& registration) {
  if (registration.builtin_code != kTfLiteBuiltinFullyConnected || !node.builtin_data ||
      node.inputs->size < 2 || node.outputs->size != 1)
    return false;
  const auto* params = static_cast<const TfLiteFullyConnectedParams*>(node.builtin_data);
  if (params->weights_format != 0 || params->activation < 0 ||
      params->activation > kTfLiteActRelu6)
    return false;
  const auto is_float = [&](int tensor) {
    return tensor >= 0 && static_cast<size_t>(tensor) < context->tensors_size &&
           context->tensors[tensor].type == kTfLiteFloat32 && context->tensors[tensor].dims;
  };
  const int bias = node.inputs->size > 2 ? node.inputs->data[2] : -1;
  return is_float(node.inputs->data[0]) && is_float(node.outputs->data[0]) &&
         (bias < 0 || is_float(bias));
}

// Whether a layer computes one token, as far as its shape is known.
bool has_one_token(const TfLiteTensor& x, int64_t columns) {
  int64_t size = 1;
  for (int i = 0; i < x.dims->size; ++i) size *= x.dims->data[i];
  return size == columns;
}

// Takes the updates of caches; returns false if the runtime does not answer.
bool take_blends(TfLiteContext* context, const Graph& graph, Delegate* delegate,
                 std::vector<int>* taken) {
  for (int index : graph.additions) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, index, &node, &registration)) return false;
    spdf::Blend blend;
    std::vector<int> parts;
    if (!spdf::is_rewired(*node, &blend)) {
      if (!spdf::find_blend(context, *node, graph.multiplications, graph.readers, &blend,
                            &parts))
        continue;
      spdf::rewire(node, blend);
    }
    delegate->blends[index] = blend;
    taken->push_back(index);
    taken->insert(taken->end(), parts.begin(), parts.end());
  }
  return true;
}

TfLiteStatus prepare(TfLiteContext* context, TfLiteDelegate* base) {
  auto& delegate = *static_cast<Delegate*>(base->data_);
  std::lock_guard<std::mutex> lock(delegate.preparing);
  const std::string refused = spdf::refusal(context, delegate.options.any_version);
  if (!refused.empty()) {
    context->ReportError(context, "spdf: %s", refused.c_str());
    return kTfLiteError;
  }
  if (!delegate.pool) {
    int threads = delegate.options.num_threads;
    if (!threads) threads = std::max(context->recommended_num_threads, 1);
    delegate.pool = std::make_unique<spdf::Pool>(threads, delegate.options.spins);
  }
  Graph graph;
  if (!read_graph(context, &graph)) return kTfLiteError;
  std::vector<int> taken;
  delegate.by_node.clear();
  delegate.blends.clear();
  if (delegate.options.caches && !take_blends(context, graph, &delegate, &taken))
    return kTfLiteError;
  for (int index : graph.nodes) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, index, &node, &registration))
      return kTfLiteError;
    Stored stored;
    if (!is_layer(context, *node, *registration) ||
        !spdf::find_stored(context, graph.producers, node->inputs->data[1], &stored))
      continue;
    const TfLiteTensor& x = context->tensors[node->inputs->data[0]];
    spdf::PackedWeight weight =
        delegate.weights.get(stored, has_one_token(x, stored.columns()), delegate.options,
                             delegate.pool.get());
    if (!weight) continue;
    TfLiteSparsity* const index_of_weight =
        delegate.options.release_index ? stored.constant->sparsity : nullptr;
    delegate.by_node[index] = {std::move(weight), spdf::Weights::key_of(stored),
                               index_of_weight};
    taken.push_back(index);
    if (stored.unpackers.empty()) continue;
    // The layer reads the constant itself from now on, so that no memory is planned for
    // the unpacked weight.
    node->inputs->data[1] = stored.tensor;
    for (int unpacker : stored.unpackers) {
      TfLiteNode* unpack;
      if (context->GetNodeAndRegistration(context, unpacker, &unpack, &registration))
        return kTfLiteError;
      if (--graph.readers[unpack->outputs->data[0]] > 0) break;
      taken.push_back(unpacker);
    }
  }
  if (delegate.options.verbose)
    std::fprintf(stderr,
                 "spdf: %zu layers and %zu caches of %zu operators are taken; %d weights are "
                 "packed to %.1f MB so far; %d threads, %s\n",
                 delegate.by_node.size(), delegate.blends.size(), graph.nodes.size(), delegate.weights.count(),
                 static_cast<double>(delegate.weights.bytes()) / 1e6,
                 delegate.pool->threads(), spdf_instruction_set(nullptr));
  if (taken.empty()) return kTfLiteOk;
  std::sort(taken.begin(), taken.end());
  auto* list = static_cast<TfLiteIntArray*>(
      std::malloc(sizeof(TfLiteIntArray) + taken.size() * sizeof(int)));
  list->size = static_cast<int>(taken.size());
  std::copy(taken.begin(), taken.end(), list->data);
  const TfLiteStatus status = context->ReplaceNodeSubsetsWithDelegateKernels(
      context, spdf::layers_operator(), list, base);
  std::free(list);
  if (!status) layers_taken += static_cast<int>(delegate.by_node.size());
  // The operators hold their weights from now on.
  delegate.by_node.clear();
  delegate.blends.clear();
  return status;
}

}  // namespace

extern "C" {

// The runtime's interface of external delegates. It returns NULL after it has reported an
// error.
__attribute__((visibility("default"))) TfLiteDelegate* tflite_plugin_create_delegate(
    const char* const* keys, const char* const* values, size_t count,
    void (*report_error)(const char*)) {
  auto made = std::make_unique<Delegate>();
  const std::string wrong = spdf::read_options(keys, values, count, &made->options);
  if (!wrong.empty()) {
    if (report_error) report_error(wrong.c_str());
    return nullptr;
  }
  made->base.data_ = made.get();
  made->base.Prepare = prepare;
  // Nothing is planned before this delegate is in.
  made->base.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return &made.release()->base;
}

// Returns the number of layers that the delegates of this process have taken so far.
__attribute__((visibility("default"))) int spdf_layers_taken() { return layers_taken; }

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(
    TfLiteDelegate* delegate) {
  if (delegate) delete static_cast<Delegate*>(delegate->data_);
}

}
