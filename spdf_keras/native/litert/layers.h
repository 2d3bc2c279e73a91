// The operator that stands for the layers that the delegate has taken.

#ifndef SPDF_LAYERS_H_
#define SPDF_LAYERS_H_

#include <map>

#include "abi.h"
#include "weights.h"

namespace spdf {

// Everything of one delegate.
struct Delegate {
  TfLiteDelegate base{};
  Options options;
  std::unique_ptr<Pool> pool;
  Weights weights;
  // Weights of the nodes of the graph that is being prepared.
  std::map<int, PackedWeight> by_node;
};

// Returns the operator, which takes the place of nodes in `Delegate::by_node`, and of the
// operators before them.
TfLiteRegistration layers_operator();

}  // namespace spdf

#endif  // SPDF_LAYERS_H_
