// Products of few tokens with a dense weight: threads compute one tile after another.

#include "dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"
#include "scratch.h"

namespace {

using spdf::DenseLoops;
using spdf::Scratch;

constexpr int64_t kTile = SPDF_DENSE_TILE;

// Number of tokens for which a tile is loaded once: they stay in the cache.
constexpr int64_t kMostTokens = 96;

// Number of parts of the work for each thread, so that all finish at about one time.
constexpr int64_t kParts = 4;

// The widest vector in floats, for two vectors of each output of a tile.
constexpr int64_t kSums = kTile * 2 * 16;

// Memory of the calling thread, which all threads of a call use.
thread_local Scratch scratch;

const DenseLoops& loops_in_use() {
#if defined(__x86_64__)
  const char* name = spdf_instruction_set(nullptr);
  if (!std::strcmp(name, "avx2")) return *spdf::avx2_dense_loops();
  if (std::strcmp(name, "portable")) return *spdf::avx512_dense_loops();
#endif
  return *spdf::portable_dense_loops();
}

// Groups of up to two vectors of tokens, each `(in, vectors * lanes)`.
class Groups {
 public:
  Groups(const DenseLoops& loops, const float* x, int64_t tokens, int64_t in)
      : loops_(loops), tokens_(tokens), in_(in) {
    float* to = scratch.get((tokens + loops.lanes) * in);
    x_ = to;
    for (int64_t token = 0; token < tokens; token += 2 * loops.lanes) {
      const int64_t width = vectors(token) * loops.lanes, count = std::min(width, tokens - token);
      for (int64_t k = 0; k < in; ++k, to += width) {
        for (int64_t t = 0; t < count; ++t) to[t] = x[(token + t) * in + k];
        std::fill(to + count, to + width, 0.0f);
      }
    }
  }

  // Computes tile number `tile` of `out` outputs.
  void product(const float* tiles, int64_t tile, const float* bias, int64_t out,
               float* y) const {
    alignas(64) float sums[kSums];
    const int64_t first = tile * kTile, count = std::min(kTile, out - first);
    for (int64_t token = 0; token < tokens_; token += 2 * loops_.lanes) {
      const int64_t width = vectors(token) * loops_.lanes;
      loops_.product(tiles + first * in_, in_, x_ + token * in_, width / loops_.lanes, sums);
      for (int64_t t = 0; t < std::min(width, tokens_ - token); ++t) {
        float* to = y + (token + t) * out + first;
        for (int64_t r = 0; r < count; ++r)
          to[r] = sums[r * width + t] + (bias ? bias[first + r] : 0.0f);
      }
    }
  }

 private:
  int64_t vectors(int64_t token) const { return tokens_ - token > loops_.lanes ? 2 : 1; }

  const DenseLoops& loops_;
  const int64_t tokens_, in_;
  const float* x_;
};

// Numbers that are searched for large ones together.
constexpr int64_t kSearched = 64;

// Inserts a number into `count` sorted ones, behind those that are equal.
void insert(float number, int32_t index, int64_t count, float* values, int32_t* indices) {
  int64_t i = count;
  for (; i > 0 && values[i - 1] < number; --i)
    values[i] = values[i - 1], indices[i] = indices[i - 1];
  values[i] = number, indices[i] = index;
}

}  // namespace

extern "C" {

float spdf_best(const float* x, int64_t count, int64_t best, float* values,
                int32_t* indices) {
  const DenseLoops& loops = loops_in_use();
  int64_t found = 0;
  for (int64_t start = 0; start < count; start += kSearched) {
    const int64_t here = std::min(kSearched, count - start);
    if (found == best && here == kSearched &&
        !(loops.largest(x + start, here) > values[best - 1]))
      continue;
    for (int64_t i = start; i < start + here; ++i)
      if (found < best) insert(x[i], static_cast<int32_t>(i), found++, values, indices);
      else if (x[i] > values[best - 1])
        insert(x[i], static_cast<int32_t>(i), best - 1, values, indices);
  }
  if (std::isinf(values[0])) return values[0];
  const int64_t most = count / 16 * 16;
  double sum = 0;
  constexpr int64_t kSummed = 4096;
  for (int64_t start = 0; start < most; start += kSummed)
    sum += loops.exponentials(x + start, std::min(kSummed, most - start), values[0]);
  for (int64_t i = most; i < count; ++i) sum += std::exp(x[i] - values[0]);
  return values[0] + static_cast<float>(std::log(sum));
}

void spdf_dense_tiles(const float* weight, int transposed, int64_t in, int64_t out,
                      float* tiles, spdf_parallel parallel, void* pool) {
  const int64_t count = (out + kTile - 1) / kTile;
  // A part reads whole lines of memory: 16 tiles have 192 outputs.
  constexpr int64_t kPart = 16;
  spdf::run(parallel, pool, (count + kPart - 1) / kPart, [&](int64_t part) {
    const int64_t first = part * kPart, last = std::min(count, first + kPart);
    for (int64_t k = 0; k < in; ++k)
      for (int64_t tile = first; tile < last; ++tile) {
        float* to = tiles + (tile * in + k) * kTile;
        const int64_t row = tile * kTile, here = std::min(kTile, out - row);
        if (transposed)
          for (int64_t r = 0; r < here; ++r) to[r] = weight[(row + r) * in + k];
        else
          std::memcpy(to, weight + k * out + row, here * sizeof(float));
        std::fill(to + here, to + kTile, 0.0f);
      }
  });
}

void spdf_dense_product(const float* tiles, const float* x, const float* bias,
                        int64_t tokens, int64_t in, int64_t out, float* y,
                        spdf_parallel parallel, void* pool, int64_t threads) {
  const DenseLoops& loops = loops_in_use();
  const int64_t count = (out + kTile - 1) / kTile;
  const int64_t parts = std::min(count, threads > 1 ? kParts * threads : 1);
  for (int64_t token = 0; token < tokens; token += kMostTokens) {
    const Groups groups(loops, x + token * in, std::min(kMostTokens, tokens - token), in);
    spdf::run(parallel, pool, parts, [&](int64_t part) {
      for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i)
        groups.product(tiles, i, bias, out, y + token * out);
    });
  }
}
}
