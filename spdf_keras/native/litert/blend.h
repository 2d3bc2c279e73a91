// The update of a key-value cache: one slot gets a token's entry, the others stay.
//
// A file writes it as `cache * keep + entry * slot`, since the runtime's delegate takes no
// operator that writes a slot. That reads and writes the whole cache several times; here
// it is one copy, and none where the runtime gives both caches one buffer.

#ifndef SPDF_BLEND_H_
#define SPDF_BLEND_H_

#include <map>
#include <vector>

#include "abi.h"
#include "pool.h"

namespace spdf {

// Indices of the tensors of y = cache * keep + entry * slot; `cache` and `y` are
// (1, heads, slots, size), `keep` and `slot` (1, 1, slots, 1), `entry` (1, heads, 1, size).
struct Blend {
  int cache = -1, keep = -1, entry = -1, slot = -1, y = -1;
};

// Finds the blend that an ADD ends. `multiplications` gives the node of MUL that computes
// a tensor, `readers` the number of nodes that read a tensor. On success the nodes of the
// two MULs are in `parts`.
bool find_blend(TfLiteContext* context, const TfLiteNode& add,
                const std::map<int, int>& multiplications,
                const std::map<int, int>& readers, Blend* blend, std::vector<int>* parts);

// Lets the ADD read the four tensors itself, so that the runtime keeps them for it.
void rewire(TfLiteNode* add, const Blend& blend);

// Returns whether an ADD was rewired, and the blend that it then is.
bool is_rewired(const TfLiteNode& add, Blend* blend);

// Computes a blend.
void run_blend(TfLiteContext* context, const Blend& blend, Pool* pool);

}  // namespace spdf

#endif  // SPDF_BLEND_H_
