// Finds and computes updates of key-value caches.

#include "blend.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace spdf {
namespace {

struct Shape {
  int of[4];
};

// Reads the shape of a float tensor of four dimensions.
bool read_shape(TfLiteContext* context, int tensor, Shape* shape) {
  if (tensor < 0 || static_cast<size_t>(tensor) >= context->tensors_size) return false;
  const TfLiteTensor& t = context->tensors[tensor];
  if (t.type != kTfLiteFloat32 || !t.dims || t.dims->size != 4) return false;
  std::memcpy(shape->of, t.dims->data, sizeof shape->of);
  return true;
}

bool is_shape(TfLiteContext* context, int tensor, int a, int b, int c, int d) {
  Shape s;
  return read_shape(context, tensor, &s) && s.of[0] == a && s.of[1] == b && s.of[2] == c &&
         s.of[3] == d;
}

// Reads the factors of a MUL without activation, the larger one first.
bool read_factors(TfLiteContext* context, int index, int* large, int* small) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (context->GetNodeAndRegistration(context, index, &node, &registration) ||
      !node->builtin_data || node->inputs->size != 2 ||
      static_cast<const TfLiteArithmeticParams*>(node->builtin_data)->activation !=
          kTfLiteActNone)
    return false;
  Shape a, b;
  *large = node->inputs->data[0], *small = node->inputs->data[1];
  if (!read_shape(context, *large, &a) || !read_shape(context, *small, &b)) return false;
  if (a.of[3] < b.of[3]) std::swap(*large, *small);
  return true;
}

}  // namespace

bool find_blend(TfLiteContext* context, const TfLiteNode& add,
                const std::map<int, int>& multiplications,
                const std::map<int, int>& readers, Blend* blend, std::vector<int>* parts) {
  if (add.inputs->size != 2 || add.outputs->size != 1 || !add.builtin_data ||
      static_cast<const TfLiteArithmeticParams*>(add.builtin_data)->activation !=
          kTfLiteActNone)
    return false;
  Shape y;
  blend->y = add.outputs->data[0];
  if (!read_shape(context, blend->y, &y) || y.of[0] != 1) return false;
  const int heads = y.of[1], slots = y.of[2], size = y.of[3];
  // With one slot or entries of one value, the parts could not be told apart.
  if (slots < 2 || size < 2) return false;
  parts->clear();
  bool has_cache = false, has_entry = false;
  for (int i = 0; i < 2; ++i) {
    const int product = add.inputs->data[i];
    const auto found = multiplications.find(product);
    const auto uses = readers.find(product);
    int large, small;
    if (found == multiplications.end() || uses == readers.end() || uses->second != 1 ||
        !read_factors(context, found->second, &large, &small) ||
        !is_shape(context, small, 1, 1, slots, 1))
      return false;
    if (is_shape(context, large, 1, heads, slots, size)) {
      blend->cache = large, blend->keep = small, has_cache = true;
    } else if (is_shape(context, large, 1, heads, 1, size)) {
      blend->entry = large, blend->slot = small, has_entry = true;
    }
    parts->push_back(found->second);
  }
  return has_cache && has_entry;
}

void rewire(TfLiteNode* add, const Blend& blend) {
  auto* inputs = static_cast<TfLiteIntArray*>(
      std::malloc(sizeof(TfLiteIntArray) + 4 * sizeof(int)));
  inputs->size = 4;
  inputs->data[0] = blend.cache, inputs->data[1] = blend.keep;
  inputs->data[2] = blend.entry, inputs->data[3] = blend.slot;
  std::free(add->inputs);
  add->inputs = inputs;
}

bool is_rewired(const TfLiteNode& add, Blend* blend) {
  if (add.inputs->size != 4) return false;
  *blend = {add.inputs->data[0], add.inputs->data[1], add.inputs->data[2],
            add.inputs->data[3], add.outputs->data[0]};
  return true;
}

void run_blend(TfLiteContext* context, const Blend& blend, Pool* pool) {
  const auto data = [&](int tensor) {
    return static_cast<float*>(context->tensors[tensor].data);
  };
  struct Work {
    const float *cache, *keep, *entry, *slot;
    float* y;
    int64_t slots, size;
  } work{data(blend.cache), data(blend.keep), data(blend.entry),
         data(blend.slot),  data(blend.y),    context->tensors[blend.y].dims->data[2],
         context->tensors[blend.y].dims->data[3]};
  pool->run(
      context->tensors[blend.y].dims->data[1],
      [](void* argument, int64_t head) {
        const Work& w = *static_cast<Work*>(argument);
        const int64_t start = head * w.slots * w.size;
        const float* entry = w.entry + head * w.size;
        for (int64_t slot = 0; slot < w.slots;) {
          const float* from = w.cache + start + slot * w.size;
          float* to = w.y + start + slot * w.size;
          int64_t end = slot;
          while (end < w.slots && w.keep[end] == 1 && w.slot[end] == 0) ++end;
          if (end > slot) {
            if (from != to) std::memcpy(to, from, (end - slot) * w.size * sizeof(float));
            slot = end;
            continue;
          }
          for (int64_t i = 0; i < w.size; ++i)
            to[i] = from[i] * w.keep[slot] + entry[i] * w.slot[slot];
          ++slot;
        }
      },
      &work);
}

}  // namespace spdf
