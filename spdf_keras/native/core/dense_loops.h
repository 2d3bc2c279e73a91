// The loops of products with a dense weight, for one instruction set: kernels.h comes
// before it, and SPDF_DENSE_NAME is the function that returns the loops.

#include "dense.h"

namespace {

// Outputs that are computed together: two vectors of sums for each fill the registers.
constexpr int kOutputs = SPDF_BYTES == 64 ? SPDF_DENSE_TILE : SPDF_DENSE_TILE / 2;

template <int kVectors>
void dense_outputs(const float* tile, int64_t in, const float* x, float* results) {
  // A weight is read once, so its lines are fetched long before they are multiplied.
  constexpr int64_t kAhead = 64 * SPDF_DENSE_TILE;
  Vector sums[kOutputs][kVectors] = {};
  for (int64_t k = 0; k < in; ++k, tile += SPDF_DENSE_TILE, x += kVectors * kLanes) {
    __builtin_prefetch(tile + kAhead);
    Vector tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = load(x + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kOutputs; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] += tokens[v] * tile[r];
  }
#pragma GCC unroll 12
  for (int r = 0; r < kOutputs; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      store(results + (r * kVectors + v) * kLanes, sums[r][v]);
}

void dense_tile(const float* tile, int64_t in, const float* x, int64_t vectors,
                float* sums) {
  for (int r = 0; r < SPDF_DENSE_TILE; r += kOutputs)
    if (vectors == 1) dense_outputs<1>(tile + r, in, x, sums + r * kLanes);
    else dense_outputs<2>(tile + r, in, x, sums + 2 * r * kLanes);
}

float largest(const float* x, int64_t count) {
  Vector most = load_unaligned(x);
  for (int64_t i = kLanes; i < count; i += kLanes) {
    const Vector here = load_unaligned(x + i);
    most = here > most ? here : most;
  }
  float result = most[0];
  for (int i = 1; i < kLanes; ++i) result = most[i] > result ? most[i] : result;
  return result;
}

float exponentials(const float* x, int64_t count, float largest) {
  constexpr float kToBinary = 1.44269504f;
  // Adding and subtracting it rounds to an integer.
  constexpr float kRound = 12582912.0f;
  Vector sum{};
  for (int64_t i = 0; i < count; i += kLanes) {
    Vector power = (load_unaligned(x + i) - largest) * kToBinary;
    // Smaller exponentials are lost in a sum that is at least 1.
    power = power > -126.0f ? power : Vector{} - 126.0f;
    const Vector whole = (power + kRound) - kRound, rest = power - whole;
    // The Taylor series of 2 ** rest, where rest is at most 1/2.
    Vector value = rest * 1.5403530e-4f + 1.3333558e-3f;
    value = value * rest + 9.6181291e-3f;
    value = value * rest + 5.5504109e-2f;
    value = value * rest + 2.4022651e-1f;
    value = value * rest + 6.9314718e-1f;
    value = value * rest + 1.0f;
    const Lanes scale = (__builtin_convertvector(whole, Lanes) + 127) << 23;
    sum += value * reinterpret_cast<const Vector&>(scale);
  }
  float result = 0;
  for (int i = 0; i < kLanes; ++i) result += sum[i];
  return result;
}

}  // namespace

namespace spdf {

const DenseLoops* SPDF_DENSE_NAME() {
  static constexpr DenseLoops loops{kLanes, dense_tile, largest, exponentials};
  return &loops;
}

}  // namespace spdf
