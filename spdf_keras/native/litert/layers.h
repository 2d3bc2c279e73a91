// The operator that stands for the layers that the delegate has taken.

#ifndef SPDF_LAYERS_H_
#define SPDF_LAYERS_H_

#include <map>
#include <mutex>

#include "abi.h"
#include "blend.h"
#include "weights.h"

namespace spdf {

// What the delegate has taken for one layer.
struct Taken {
  PackedWeight weight;
  Weights::Key key;
  // Indices that are freed at the layer's first call, or NULL.
  TfLiteSparsity* index;
};

// Everything of one delegate.
struct Delegate {
  TfLiteDelegate base{};
  Options options;
  std::unique_ptr<Pool> pool;
  Weights weights;
  // Held while a graph is prepared.
  std::mutex preparing;
  // Layers and blends of the graph that is being prepared, by node.
  std::map<int, Taken> by_node;
  std::map<int, Blend> blends;
};

// Returns the operator, which takes the place of the nodes in `Delegate::by_node` and
// `Delegate::blends`, and of the nodes that they make needless.
TfLiteRegistration layers_operator();

}  // namespace spdf

#endif  // SPDF_LAYERS_H_
