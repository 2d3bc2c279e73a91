// The operator that stands for the layers that the delegate has taken.

#ifndef SPDF_LAYERS_H_
#define SPDF_LAYERS_H_

#include <map>

#include "abi.h"
#include "blend.h"
#include "weights.h"

namespace spdf {

// Everything of one delegate.
struct Delegate {
  TfLiteDelegate base{};
  Options options;
  std::unique_ptr<Pool> pool;
  Weights weights;
  // Weights of the layers of the graph that is being prepared, and its blends, by node.
  std::map<int, PackedWeight> by_node;
  std::map<int, Blend> blends;
};

// Returns the operator, which takes the place of the nodes in `Delegate::by_node` and
// `Delegate::blends`, and of the nodes that they make needless.
TfLiteRegistration layers_operator();

}  // namespace spdf

#endif  // SPDF_LAYERS_H_
