// Activations of either type, on their way to tiles and back.

#ifndef SPDF_ACTIVATIONS_H_
#define SPDF_ACTIVATIONS_H_

#include <cstdint>

#include "bfloat16.h"
#include "loops.h"

namespace spdf {

// Activations (tokens, columns) of either type.
class Activations {
 public:
  Activations(const void* data, spdf_type type, int64_t columns)
      : data_(data), is_half_(type == SPDF_BFLOAT16), columns_(columns) {}

  // Transposes tokens into a tile; `room` holds tile x columns floats for bfloat16.
  void to_tile(const Loops& loops, int64_t token, int64_t count, float* room,
               float* tile) const {
    const float* from = static_cast<const float*>(data_) + token * columns_;
    if (is_half_) {
      const uint16_t* halves = static_cast<const uint16_t*>(data_) + token * columns_;
      for (int64_t i = 0; i < count * columns_; ++i) room[i] = from_bfloat16(halves[i]);
      from = room;
    }
    loops.to_tile(from, columns_, columns_, count, tile);
  }
  int64_t room(const Loops& loops) const { return is_half_ ? loops.tile * columns_ : 0; }

 private:
  const void* data_;
  const bool is_half_;
  const int64_t columns_;
};

// Floats of a window's tile, including the padding rows of its last group, and of its
// tokens before they are rounded.
inline int64_t window_floats(int64_t tile) { return (2 * kWindow + 3) * tile; }

// Computes windows [first, last) of the product of one tile, and writes them as tokens
// from `token` on.
inline void multiply(const Structure& s, const Loops& loops, int64_t first, int64_t last,
              const Values& values, const float* tile, int64_t count, const float* bias,
              float* room, spdf_type type, void* y, int64_t token) {
  float* wide = room + (kWindow + 3) * loops.tile;
  for (int64_t w = first; w < last; ++w) {
    const int64_t row = w * kWindow, rows = s.window_rows(w);
    loops.product[values.type](s, w, values.data, tile, room);
    const float* own = bias ? bias + row : nullptr;
    const float* scales = values.scales ? values.scales + row : nullptr;
    const int64_t at = token * s.rows + row;
    if (type == SPDF_FLOAT32) {
      loops.from_tile(room, rows, s.rows, count, own, scales, static_cast<float*>(y) + at);
      continue;
    }
    loops.from_tile(room, rows, rows, count, own, scales, wide);
    for (int64_t t = 0; t < count; ++t) {
      uint16_t* to = static_cast<uint16_t*>(y) + at + t * s.rows;
      for (int64_t i = 0; i < rows; ++i) to[i] = to_bfloat16(wide[t * rows + i]);
    }
  }
}

}  // namespace spdf

#endif  // SPDF_ACTIVATIONS_H_
