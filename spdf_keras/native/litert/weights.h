// The weights of a file: where they are stored, and what they are packed to.

#ifndef SPDF_WEIGHTS_H_
#define SPDF_WEIGHTS_H_

#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "abi.h"
#include "options.h"
#include "packed.h"
#include "pool.h"

namespace spdf {

// A constant matrix, and the operators between it and the layer that reads it.
struct Stored {
  const TfLiteTensor* constant = nullptr;
  // Index of the constant among the tensors.
  int tensor = -1;
  // The int8 tensor that has the scales, or NULL.
  const TfLiteTensor* integers = nullptr;
  // Nodes of DENSIFY and DEQUANTIZE, the last one first.
  std::vector<int> unpackers;

  int64_t rows() const { return constant->dims->data[0]; }
  int64_t columns() const { return constant->dims->data[1]; }
  spdf_source source() const;
};

// Follows a tensor back to its constant; `producers` gives the node that computes a tensor
// by DENSIFY or DEQUANTIZE. Returns false if it is no matrix that can be packed.
bool find_stored(TfLiteContext* context, const std::map<int, int>& producers, int tensor,
                 Stored* stored);

using PackedWeight = std::shared_ptr<const spdf_packed>;

// The packed weights of one delegate. Signatures share a constant, and so they share what
// it is packed to, for as long as one of them uses it.
class Weights {
 public:
  // Where a constant lies, its sizes and a fingerprint of its scales: tensors of one buffer
  // may be read in several ways.
  using Key = std::tuple<const void*, int64_t, int64_t, uint64_t>;
  static Key key_of(const Stored& stored);

  // Returns the packed weight, or NULL if packing it does not pay or its constant
  // contradicts itself. `one_token` tells whether its layer computes a single token.
  PackedWeight get(const Stored& stored, bool one_token, const Options& options,
                   Pool* pool);

  // Frees the indices that the runtime unpacked for a packed weight. Until the first call
  // the runtime may still put its graph back as it was, and needs them.
  void release_index(const Key& key, TfLiteSparsity* sparsity);

  // Number of weights that `get` has packed, and their bytes.
  int count() const { return count_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::weak_ptr<const spdf_packed> packed;
    // Keeps a weight whose indices are gone, since it cannot be packed again.
    PackedWeight only_copy;
  };

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
  int count_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace spdf

#endif  // SPDF_WEIGHTS_H_
