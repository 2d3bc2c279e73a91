// The loops of the sparse products, for one instruction set.
//
// This file is compiled once per instruction set, with SPDF_BYTES, the bytes of its
// vector registers, and SPDF_NAME, the function that returns its table of loops.
// GCC's vector extensions become AVX-512, AVX2, NEON or plain code as the compiler's
// flags say.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "loops.h"

namespace {

using spdf::kMaxBlock;
using spdf::kPatterns;
using spdf::Structure;

constexpr int kLanes = SPDF_BYTES / 4;
// Vectors of tokens that are computed together; with four rows of accumulators they
// fill the registers.
constexpr int kVectors = SPDF_VECTORS;
constexpr int kTile = kLanes * kVectors;

typedef float Vector __attribute__((vector_size(SPDF_BYTES)));
typedef float Unaligned __attribute__((vector_size(SPDF_BYTES), aligned(4)));
typedef int32_t Lanes __attribute__((vector_size(SPDF_BYTES)));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector load_unaligned(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}
inline void store_unaligned(float* p, Vector v) {
  *reinterpret_cast<Unaligned*>(p) = v;
}

// Exchanges lanes between two rows at distance `kStep`: a step of a transposition.
template <int kStep>
inline void exchange(Vector& a, Vector& b) {
  Lanes low, high;
  for (int i = 0; i < kLanes; ++i) {
    const int inside = i & kStep;
    low[i] = inside ? kLanes + i - kStep : i;
    high[i] = inside ? kLanes + i : i + kStep;
  }
  const Vector x = a, y = b;
  a = __builtin_shuffle(x, y, low);
  b = __builtin_shuffle(x, y, high);
}

template <int kStep>
inline void transpose_steps(Vector (&rows)[kLanes]) {
  if constexpr (kStep > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & kStep)) exchange<kStep>(rows[i], rows[i + kStep]);
    transpose_steps<kStep / 2>(rows);
  }
}

// Transposes a square of lanes in registers.
inline void transpose(Vector (&rows)[kLanes]) { transpose_steps<kLanes / 2>(rows); }

// Tokens `(count, columns)`, a row each, to a tile `(columns, kTile)`; missing tokens
// become zeros.
void pack(const float* x, int64_t columns, int64_t stride, int64_t count, float* tile) {
  for (int v = 0; v < kVectors; ++v) {
    const int64_t first = v * kLanes;
    float* out = tile + first;
    int64_t c = 0;
    if (first + kLanes <= count)
      for (; c + kLanes <= columns; c += kLanes) {
        Vector rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          rows[i] = load_unaligned(x + (first + i) * stride + c);
        transpose(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(out + (c + i) * kTile, rows[i]);
      }
    for (; c < columns; ++c)
      for (int i = 0; i < kLanes; ++i) {
        const int64_t token = first + i;
        out[c * kTile + i] = token < count ? x[token * stride + c] : 0.0f;
      }
  }
}

// A tile `(columns, kTile)` back to tokens `(count, columns)`, plus a bias per column.
void unpack(const float* tile, int64_t columns, int64_t stride, int64_t count,
            const float* bias, float* y) {
  for (int v = 0; v < kVectors; ++v) {
    const int64_t first = v * kLanes;
    const float* in = tile + first;
    int64_t c = 0;
    if (first + kLanes <= count)
      for (; c + kLanes <= columns; c += kLanes) {
        Vector rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = load(in + (c + i) * kTile);
        transpose(rows);
        const Vector b = bias ? load_unaligned(bias + c) : Vector{};
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          store_unaligned(y + (first + i) * stride + c, rows[i] + b);
      }
    for (; c < columns; ++c)
      for (int i = 0; i < kLanes && first + i < count; ++i)
        y[(first + i) * stride + c] = in[c * kTile + i] + (bias ? bias[c] : 0.0f);
  }
}

// Columns that the rows of `kPattern` share: each is loaded once for all of them.
template <int kPattern>
inline __attribute__((always_inline)) void bucket(
    int count, const uint8_t*& places, const float*& values, const float* x,
    Vector (&sums)[4][kVectors]) {
  for (int c = 0; c < count; ++c) {
    const float* column = x + static_cast<size_t>(places[c]) * kTile;
    Vector loaded[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) loaded[v] = load(column + v * kLanes);
    int place = 0;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      if (kPattern >> r & 1) {
        const float value = values[place++];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[r][v] += value * loaded[v];
      }
    values += __builtin_popcount(kPattern);
  }
  places += count;
}

template <int kPattern>
inline __attribute__((always_inline)) void buckets(
    const uint8_t* counts, const uint8_t*& places, const float*& values,
    const float* x, Vector (&sums)[4][kVectors]) {
  bucket<kPattern>(counts[kPattern - 1], places, values, x, sums);
  if constexpr (kPattern > 1) buckets<kPattern - 1>(counts, places, values, x, sums);
}

void product(const Structure& s, int64_t first, int64_t last, const float* values,
             const float* x, float* y) {
  for (int64_t b = 0; b < s.blocks; ++b) {
    const float* block = x + b * s.block * kTile;
    const int64_t start = b * s.groups + first;
    const uint8_t* counts = s.counts + start * kPatterns;
    const uint8_t* places = s.places + s.place_starts[start];
    const float* value = values + s.value_starts[start];
    for (int64_t g = first; g < last; ++g, counts += kPatterns) {
      float* rows = y + (g - first) * 4 * kTile;
      Vector sums[4][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          sums[r][v] = b ? load(rows + r * kTile + v * kLanes) : Vector{};
      buckets<kPatterns>(counts, places, value, block, sums);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          store(rows + r * kTile + v * kLanes, sums[r][v]);
    }
  }
}

// Stores, a vector per value, the products of a column with its rows.
template <int kPattern>
inline __attribute__((always_inline)) void sample(int count, const uint8_t*& places,
                                                  float*& sums, const float* x,
                                                  const Vector (&dy)[4][kVectors]) {
  for (int c = 0; c < count; ++c) {
    const float* column = x + static_cast<size_t>(places[c]) * kTile;
    Vector loaded[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) loaded[v] = load(column + v * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      if (kPattern >> r & 1) {
        Vector sum = loaded[0] * dy[r][0];
#pragma GCC unroll 8
        for (int v = 1; v < kVectors; ++v) sum += loaded[v] * dy[r][v];
        store(sums, sum);
        sums += kLanes;
      }
  }
  places += count;
}

template <int kPattern>
inline __attribute__((always_inline)) void samples(const uint8_t* counts,
                                                   const uint8_t*& places, float*& sums,
                                                   const float* x,
                                                   const Vector (&dy)[4][kVectors]) {
  sample<kPattern>(counts[kPattern - 1], places, sums, x, dy);
  if constexpr (kPattern > 1) samples<kPattern - 1>(counts, places, sums, x, dy);
}

// Halves the number of vectors until one is left, whose lanes are the sums of each.
template <int kStep>
inline __attribute__((always_inline)) void fold(Vector (&rows)[kLanes]) {
  if constexpr (kStep > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kStep; ++i) {
      Vector a = rows[i], b = rows[i + kStep];
      exchange<kStep>(a, b);
      rows[i] = a + b;
    }
    fold<kStep / 2>(rows);
  }
}

// Adds the lanes of each of `count` vectors to a value.
inline void reduce(const float* sums, int64_t count, float* values) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Vector rows[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) rows[j] = load(sums + (i + j) * kLanes);
    fold<kLanes / 2>(rows);
    store_unaligned(values + i, load_unaligned(values + i) + rows[0]);
  }
  for (; i < count; ++i) {
    float total = 0;
    for (int j = 0; j < kLanes; ++j) total += sums[i * kLanes + j];
    values[i] += total;
  }
}

void gradient(const Structure& s, int64_t first, int64_t last, int64_t tiles,
              const float* x, const float* dy, float* values) {
  alignas(64) float sums[4 * kMaxBlock * kLanes];
  for (int64_t b = 0; b < s.blocks; ++b) {
    const int64_t start = b * s.groups + first;
    for (int64_t t = 0; t < tiles; ++t) {
      const float* block = x + (t * s.columns + b * s.block) * kTile;
      const float* rows = dy + (t * s.groups + first) * 4 * kTile;
      const uint8_t* counts = s.counts + start * kPatterns;
      const uint8_t* places = s.places + s.place_starts[start];
      for (int64_t g = first; g < last; ++g, counts += kPatterns, rows += 4 * kTile) {
        Vector loaded[4][kVectors];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            loaded[r][v] = load(rows + r * kTile + v * kLanes);
        float* end = sums;
        samples<kPatterns>(counts, places, end, block, loaded);
        reduce(sums, (end - sums) / kLanes,
               values + s.value_starts[b * s.groups + g]);
      }
    }
  }
}

}  // namespace

namespace spdf {

const Loops* SPDF_NAME() {
  static const Loops loops = {SPDF_LABEL, kTile,   pack,    unpack,
                              product,    gradient};
  return &loops;
}

}  // namespace spdf
