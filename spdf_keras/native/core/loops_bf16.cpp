// The loops of pairs for AVX512-BF16, which takes inputs below 2^-126 for zeros.
//
// Nothing here is a template of the standard library that makes code: see loops_vnni.cpp.

#define SPDF_BYTES 64
#include <immintrin.h>

#include "pairs.h"
#include "vectors.h"

namespace {

using spdf::PairedGroup;
using spdf::PairedLoops;
using spdf::PairedRegion;

// Tokens of a register of bfloat16.
constexpr int64_t kTokens = 32;

// A tile has `kSums` registers of float32 for each row. Its columns have whole registers
// of inputs: the last 16 tokens of one are missing if there is a single sum.
template <int kSums>
constexpr int kRegisters = (kSums + 1) / 2;
template <int kSums>
constexpr int64_t kWidth = kRegisters<kSums> * kTokens;

inline __m512i load_inputs(const uint16_t* p) { return _mm512_load_si512(p); }

inline Vector add_products(Vector sum, __m512i a, __m512i b) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count < kLanes ? (1 << count) - 1 : 0xffff);
}

// Rounds and stores up to `count` lanes.
inline void store_rounded(uint16_t* to, int64_t count, Vector values) {
  const auto rounded = (__m256i)_mm512_cvtneps_pbh((__m512)values);
  // Masked stores are slow on Zen 4.
  if (count < kLanes) _mm256_mask_storeu_epi16(to, first_lanes(count), rounded);
  else _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
}

void round_values(const float* values, int64_t count, uint16_t* rounded) {
  for (int64_t i = 0; i < count; i += kLanes)
    store_rounded(rounded + i, count - i,
                  (Vector)_mm512_maskz_loadu_ps(first_lanes(count - i), values + i));
}

// Loads 32 columns of every second token of a register, beginning with `parity`, and
// transposes pairs of columns.
//
// Interleaving takes the lower four of every eight tokens of a register first, and then
// the upper four of every eight: so those are the first and the last 16 tokens.
inline void load_tokens(const uint16_t* x, int64_t stride, int64_t count, int parity,
                        __mmask32 columns, Vector (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const int token = i % 4 / 2 * 16 + i / 4 * 4 + i % 2 * 2 + parity;
    rows[i] = token < count
                  ? (Vector)_mm512_maskz_loadu_epi16(columns, x + token * stride)
                  : Vector{};
  }
  transpose(rows);
}

template <int kSums>
void to_tile(const uint16_t* x, int64_t columns, int64_t stride, int64_t count,
             uint16_t* tile) {
  constexpr __mmask32 kOdd = 0xaaaaaaaa;
  for (int64_t first = 0; first < kWidth<kSums>; first += kTokens)
    for (int64_t c = 0; c < columns; c += 32) {
      const int64_t left = columns - c;
      const __mmask32 present = left < 32 ? (1u << left) - 1 : ~0u;
      const uint16_t* from = x + first * stride + c;
      Vector rows[kLanes];
      load_tokens(from, stride, count - first, 0, present, rows);
      alignas(64) float even[kLanes][kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(even[i], rows[i]);
      load_tokens(from, stride, count - first, 1, present, rows);
      uint16_t* out = tile + c * kWidth<kSums> + first;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const __m512i a = _mm512_load_si512(even[i]), b = (__m512i)rows[i];
        const __m512i column =
            _mm512_mask_blend_epi16(kOdd, a, _mm512_slli_epi32(b, 16));
        const __m512i next = _mm512_mask_blend_epi16(kOdd, _mm512_srli_epi32(a, 16), b);
        if (2 * i < left) _mm512_store_si512(out + 2 * i * kWidth<kSums>, column);
        if (2 * i + 1 < left) _mm512_store_si512(out + (2 * i + 1) * kWidth<kSums>, next);
      }
    }
}

template <int kSums>
void from_tile(const float* tile, int64_t columns, int64_t stride, int64_t count,
               const float* bias, uint16_t* y) {
  for (int64_t first = 0; first < count; first += kLanes)
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t left = columns - c;
      Vector rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        rows[i] = i < left ? load(tile + (c + i) * kSums * kLanes + first) : Vector{};
      transpose(rows);
      const Vector b =
          bias ? (Vector)_mm512_maskz_loadu_ps(first_lanes(left), bias + c) : Vector{};
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (first + i >= count) break;
        store_rounded(y + (first + i) * stride + c, left, rows[i] + b);
      }
    }
}

// Multiplies two columns by a pair of each of `kRows` rows, and adds the products to the
// sums of these rows.
template <int kSums, int kRows>
inline __attribute__((always_inline)) void add_pairs(const uint16_t* a, const uint16_t* b,
                                                     const uint32_t* pairs,
                                                     Vector (*sums)[kSums]) {
#pragma GCC unroll 2
  for (int v = 0; v < kSums; v += 2) {
    const __m512i first = load_inputs(a + v * kLanes);
    const __m512i second = load_inputs(b + v * kLanes);
    const __m512i low = _mm512_unpacklo_epi16(first, second);
    const __m512i high = _mm512_unpackhi_epi16(first, second);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      const __m512i pair = _mm512_set1_epi32(static_cast<int>(pairs[r]));
      sums[r][v] = add_products(sums[r][v], low, pair);
      if constexpr (kSums > 1) sums[r][v + 1] = add_products(sums[r][v + 1], high, pair);
    }
  }
}

template <int kSums>
void product(const PairedRegion& region, const uint32_t* pairs, bool is_first,
             const uint16_t* x, float* y) {
  constexpr size_t kIn = kWidth<kSums>, kOut = kSums * kLanes;
  const uint8_t* place = region.places;
  for (const PairedGroup* g = region.groups; g < region.last; ++g) {
    Vector sums[2][kSums];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kSums; ++v)
        sums[r][v] = is_first ? Vector{} : load(y + g->rows[r] * kOut + v * kLanes);
    for (int step = g->shared; step > 0; --step, place += 2, pairs += 2)
      add_pairs<kSums, 2>(x + place[0] * kIn, x + place[1] * kIn, pairs, sums);
    // Sorted rows lie anywhere in the window, so hardware prefetching fails.
    if (g + 1 < region.last)
      for (int r = 0; r < 2; ++r)
        for (int v = 0; v < kSums; ++v)
          __builtin_prefetch(y + g[1].rows[r] * kOut + v * kLanes);
    for (int step = g->singles; step > 0; --step, place += 4, pairs += 2) {
      add_pairs<kSums, 1>(x + place[0] * kIn, x + place[1] * kIn, pairs, sums);
      add_pairs<kSums, 1>(x + place[2] * kIn, x + place[3] * kIn, pairs + 1, sums + 1);
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kSums; ++v)
        store(y + g->rows[r] * kOut + v * kLanes, sums[r][v]);
  }
}

// One column or row of several tiles. Its tokens need no interleaving, since the sum goes
// over all of them.
template <int kCount>
struct Line {
  __m512i parts[kCount];
};

template <int kVectors, int kTiles>
inline __attribute__((always_inline)) Line<kVectors * kTiles> load_line(const uint16_t* p,
                                                                        int64_t stride) {
  Line<kVectors * kTiles> line;
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      line.parts[t * kVectors + v] = load_inputs(p + t * stride + v * kTokens);
  return line;
}

// Multiplies two lines; the lanes of the result are not yet added up.
template <int kCount>
inline __attribute__((always_inline)) Vector dot(const Line<kCount>& a,
                                                 const Line<kCount>& b) {
  Vector sum{};
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) sum = add_products(sum, a.parts[i], b.parts[i]);
  return sum;
}

template <int kVectors, int kTiles>
void gradient_of(const PairedRegion& region, const uint16_t* x, int64_t x_stride,
                 const uint16_t* dy, int64_t dy_stride, float* values) {
  constexpr size_t kTile = kVectors * kTokens;
  const uint8_t* place = region.places;
  const auto column = [&](int index) __attribute__((always_inline)) {
    return load_line<kVectors, kTiles>(x + place[index] * kTile, x_stride);
  };
  Sums sums(values);
  for (const PairedGroup* g = region.groups; g < region.last; ++g) {
    const auto row = load_line<kVectors, kTiles>(dy + g->rows[0] * kTile, dy_stride);
    const auto other = load_line<kVectors, kTiles>(dy + g->rows[1] * kTile, dy_stride);
    if (g + 1 < region.last)
      for (int r = 0; r < 2; ++r)
        for (int t = 0; t < kTiles; ++t)
          for (int v = 0; v < kVectors; ++v)
            __builtin_prefetch(dy + t * dy_stride + g[1].rows[r] * kTile + v * kTokens);
    for (int step = g->shared; step > 0; --step, place += 2) {
      const auto a = column(0), b = column(1);
      sums.add(dot(row, a), dot(row, b), dot(other, a), dot(other, b));
    }
    for (int step = g->singles; step > 0; --step, place += 4)
      sums.add(dot(row, column(0)), dot(row, column(1)), dot(other, column(2)),
               dot(other, column(3)));
  }
  sums.finish();
}

template <int kSums>
void gradient(const PairedRegion& region, int64_t tiles, const uint16_t* x,
              int64_t x_stride, const uint16_t* dy, int64_t dy_stride, float* sums) {
  static_assert(spdf::kGradientTiles == 2);
  constexpr int kVectors = kRegisters<kSums>;
  if (tiles == 2) gradient_of<kVectors, 2>(region, x, x_stride, dy, dy_stride, sums);
  else gradient_of<kVectors, 1>(region, x, x_stride, dy, dy_stride, sums);
}

template <int kSums>
constexpr PairedLoops loops_of() {
  return {kSums * kLanes, kWidth<kSums>,    round_values,   to_tile<kSums>,
          from_tile<kSums>, product<kSums>, gradient<kSums>};
}

}  // namespace

namespace spdf {

const PairedLoops* bf16_loops() {
  static constexpr PairedLoops loops[] = {loops_of<4>(), loops_of<2>(), loops_of<1>(),
                                          PairedLoops{}};
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw")
             ? loops
             : nullptr;
}

// Intel's processors with AMX start a vector of pairs every second cycle, and two vectors
// of float32 every cycle, so that products of float32 are twice as fast.
bool bf16_is_fast() {
  return !__builtin_cpu_is("intel") || __builtin_cpu_is("cooperlake");
}

}  // namespace spdf
