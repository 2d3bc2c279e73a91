// The loops of the sparse products, for one instruction set.
//
// This file is compiled once per instruction set. SPDF_BYTES is the size of a vector
// register in bytes, SPDF_NAME the function that returns the loops, SPDF_VECTORS the
// number of vectors in the widest tile and SPDF_LABEL the name that users see. Depending
// on its flags, the compiler turns the vector extensions of GCC and Clang into AVX-512,
// AVX2, NEON or plain code.

#include <cstddef>
#include <cstdint>
#include <cstring>
#if SPDF_BYTES > 16
#include <immintrin.h>
#endif

#include "elementwise_loops.h"
#include "loops.h"
#include "vectors.h"

namespace {

using spdf::Group;
using spdf::Half;
using spdf::Structure;
using spdf::to_float;

// Broadcasts four floats across the register; plain vector extensions would go through
// memory.
inline Vector repeat(const float* p) {
#if SPDF_BYTES == 64
  return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif SPDF_BYTES == 32
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#else
  return load_unaligned(p);
#endif
}

// Do the same with values that are stored as float16 or int8.
#if SPDF_BYTES > 16
inline Vector broadcast(__m128 four) {
#if SPDF_BYTES == 64
  return _mm512_broadcast_f32x4(four);
#else
  return _mm256_set_m128(four, four);
#endif
}
inline Vector repeat(const Half* p) {
  int64_t halves;
  std::memcpy(&halves, p, sizeof halves);
  return broadcast(_mm_cvtph_ps(_mm_cvtsi64_si128(halves)));
}
inline Vector repeat(const int8_t* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return broadcast(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(bytes))));
}
#else
inline Vector repeat(const Half* p) {
  return Vector{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline Vector repeat(const int8_t* p) {
  return Vector{float(p[0]), float(p[1]), float(p[2]), float(p[3])};
}
#endif

// Copies float `kIndex` of the four that `repeat` broadcast to all lanes.
template <int kIndex, size_t... kLane>
inline Vector spread(Vector fours, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(fours, fours, (kLane / 4 * 4 + kIndex)...);
}

// Transposes tokens into a tile; missing tokens become zeros.
template <int kVectors>
void to_tile(const float* x, int64_t columns, int64_t stride, int64_t count, float* tile) {
  constexpr int64_t kTile = kVectors * kLanes;
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
    for (; c < columns; ++c) {
      store(out + c * kTile, Vector{});
      for (int64_t token = first; token < count && token < first + kLanes; ++token)
        tile[c * kTile + token] = x[token * stride + c];
    }
  }
}

// Transposes a tile back into tokens, with scales and biases.
template <int kVectors>
void from_tile(const float* tile, int64_t columns, int64_t stride, int64_t count,
               const float* bias, const float* scales, float* y) {
  constexpr int64_t kTile = kVectors * kLanes;
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
        if (scales) {
          const Vector scale = load_unaligned(scales + c);
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) rows[i] *= scale;
        }
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          store_unaligned(y + (first + i) * stride + c, rows[i] + b);
      }
    for (; c < columns; ++c)
      for (int64_t i = 0; i < kLanes && first + i < count; ++i)
        y[(first + i) * stride + c] =
            in[c * kTile + i] * (scales ? scales[c] : 1.0f) + (bias ? bias[c] : 0.0f);
  }
}

// Multiplies one column by the values of rows `kFirst` and `kFirst + 1`, and adds the
// products to the sums of these rows.
template <int kFirst, int kVectors>
inline __attribute__((always_inline)) void add_shared(const float* column, Vector four,
                                                      Vector (&sums)[4][kVectors]) {
  const Vector value = spread<kFirst>(four, AllLanes()),
               other = spread<kFirst + 1>(four, AllLanes());
  Vector loaded[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) loaded[v] = load(column + v * kLanes);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[kFirst][v] += value * loaded[v];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[kFirst + 1][v] += other * loaded[v];
}

// Multiplies one column by the value of row `kRow`, and adds the product to its sum.
template <int kRow, int kVectors>
inline __attribute__((always_inline)) void add_own(const float* column, Vector four,
                                                   Vector (&sums)[4][kVectors]) {
  const Vector value = spread<kRow>(four, AllLanes());
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
    sums[kRow][v] += value * load(column + v * kLanes);
}

// Computes a window's product for one tile: the sums of four rows stay in registers.
template <int kVectors, class Value>
void product(const Structure& s, int64_t window, const void* all_values, const float* x,
             float* y) {
  const auto* values = static_cast<const Value*>(all_values);
  constexpr size_t kTile = kVectors * kLanes;
  for (int64_t b = 0; b < s.blocks; ++b) {
    const int64_t region = window * s.blocks + b;
    const float* block = x + b * s.block * kTile;
    const Value* value = values + s.value_starts[region];
    const uint8_t* place = s.places + s.place_starts[region];
    const Group* last = s.groups + s.group_starts[region + 1];
    for (const Group* g = s.groups + s.group_starts[region]; g < last; ++g) {
      Vector sums[4][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const float* row = y + g->rows[r] * kTile;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          sums[r][v] = b ? load(row + v * kLanes) : Vector{};
      }
      for (int step = g->pairs; step > 0; --step, place += 2, value += 4) {
        const Vector four = repeat(value);
        add_shared<0>(block + place[0] * kTile, four, sums);
        add_shared<2>(block + place[1] * kTile, four, sums);
      }
      // Sorted rows lie anywhere in the window, so hardware prefetching fails.
      if (g + 1 < last)
        for (int r = 0; r < 4; ++r)
          for (size_t i = 0; i < kTile; i += 16)
            __builtin_prefetch(y + g[1].rows[r] * kTile + i);
      for (int step = g->singles; step > 0; --step, place += 4, value += 4) {
        const Vector four = repeat(value);
        add_own<0>(block + place[0] * kTile, four, sums);
        add_own<1>(block + place[1] * kTile, four, sums);
        add_own<2>(block + place[2] * kTile, four, sums);
        add_own<3>(block + place[3] * kTile, four, sums);
      }
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        float* row = y + g->rows[r] * kTile;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) store(row + v * kLanes, sums[r][v]);
      }
    }
  }
}

// Multiplies two rows of a tile; the lanes of the result are not yet added up.
template <int kVectors>
inline __attribute__((always_inline)) Vector dot(const Vector (&a)[kVectors],
                                                 const float* b) {
  Vector sum = a[0] * load(b);
#pragma GCC unroll 8
  for (int v = 1; v < kVectors; ++v) sum += a[v] * load(b + v * kLanes);
  return sum;
}

// Computes the gradient of a region's values for one tile.
template <int kVectors>
void gradient(const Structure& s, int64_t region, const float* x, const float* dy,
              float* values) {
  constexpr size_t kTile = kVectors * kLanes;
  const float* block = x + region % s.blocks * s.block * kTile;
  const uint8_t* place = s.places + s.place_starts[region];
  const Group* last = s.groups + s.group_starts[region + 1];
  Sums sums(values + s.value_starts[region]);
  for (const Group* g = s.groups + s.group_starts[region]; g < last; ++g) {
    Vector rows[4][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        rows[r][v] = load(dy + g->rows[r] * kTile + v * kLanes);
    if (g + 1 < last)
      for (int r = 0; r < 4; ++r)
        for (size_t i = 0; i < kTile; i += 16)
          __builtin_prefetch(dy + g[1].rows[r] * kTile + i);
    for (int step = g->pairs; step > 0; --step, place += 2) {
      Vector products[4];
#pragma GCC unroll 2
      for (int pair = 0; pair < 2; ++pair) {
        const float* column = block + place[pair] * kTile;
        Vector loaded[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) loaded[v] = load(column + v * kLanes);
#pragma GCC unroll 2
        for (int r = 2 * pair; r < 2 * pair + 2; ++r) {
          products[r] = rows[r][0] * loaded[0];
#pragma GCC unroll 8
          for (int v = 1; v < kVectors; ++v) products[r] += rows[r][v] * loaded[v];
        }
      }
      sums.add(products[0], products[1], products[2], products[3]);
    }
    for (int step = g->singles; step > 0; --step, place += 4)
      sums.add(dot(rows[0], block + place[0] * kTile),
               dot(rows[1], block + place[1] * kTile),
               dot(rows[2], block + place[2] * kTile),
               dot(rows[3], block + place[3] * kTile));
  }
  sums.finish();
}

// Load a vector of values.
inline Vector values_at(const float* p) { return load_unaligned(p); }
inline Vector values_at(const Half* p) {
#if SPDF_BYTES == 64
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif SPDF_BYTES == 32
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  return Vector{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
#endif
}

template <int kStep>
inline Vector summed(Vector v) {
  if constexpr (kStep == 0) return v;
  else return summed<kStep / 2>(v + neighbours<kStep>(v, AllLanes()));
}

// Multiplies `kRows` dense rows by `kTokens` tokens; see `Loops::dense`.
template <int kRows, int kTokens, class Value>
inline void dense_rows(const Value* values, int64_t columns, const float* x, float* y,
                       int64_t stride) {
  Vector sums[kRows][kTokens] = {};
  for (int64_t c = 0; c < columns; c += kLanes) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector value = values_at(values + r * columns + c);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t)
        sums[r][t] += value * load(x + t * columns + c);
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r)
      y[t * stride + r] = summed<kLanes / 2>(sums[r][t])[0];
}

template <int kTokens, class Value>
void dense_product(const Value* values, int64_t columns, int64_t first, int64_t last,
                   const float* x, float* y, int64_t stride) {
  int64_t row = first;
  for (; row + 4 <= last; row += 4)
    dense_rows<4, kTokens>(values + row * columns, columns, x, y + row, stride);
  for (; row < last; ++row)
    dense_rows<1, kTokens>(values + row * columns, columns, x, y + row, stride);
}

template <class Value>
void dense(const void* all_values, int64_t columns, int64_t first, int64_t last,
           const float* x, int64_t tokens, float* y, int64_t stride) {
  const auto* values = static_cast<const Value*>(all_values);
  static_assert(spdf::kDenseTokens == 4);
  switch (tokens) {
    case 1: return dense_product<1>(values, columns, first, last, x, y, stride);
    case 2: return dense_product<2>(values, columns, first, last, x, y, stride);
    case 3: return dense_product<3>(values, columns, first, last, x, y, stride);
    default: return dense_product<4>(values, columns, first, last, x, y, stride);
  }
}

#if SPDF_BYTES == 64

// A single token needs no transposition: it already is a tile.
void copy_token(const float* x, int64_t columns, int64_t, int64_t, float* tile) {
  std::memcpy(tile, x, columns * sizeof(float));
}

void add_bias(const float* tile, int64_t columns, int64_t, int64_t, const float* bias,
              const float* scales, float* y) {
  for (int64_t c = 0; c < columns; ++c)
    y[c] = tile[c] * (scales ? scales[c] : 1.0f) + (bias ? bias[c] : 0.0f);
}

// Returns the inputs at sixteen places of a block of 128 columns held in registers.
inline __m512 pick(const __m512 (&block)[8], __m128i places) {
  const __m512i index = _mm512_cvtepu8_epi32(places);
  __m512 parts[4];  // the lower five bits select from two registers
  for (int i = 0; i < 4; ++i)
    parts[i] = _mm512_permutex2var_ps(block[2 * i], index, block[2 * i + 1]);
  const __mmask16 bit5 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)),
                  bit6 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(64));
  return _mm512_mask_blend_ps(bit6, _mm512_mask_blend_ps(bit5, parts[0], parts[1]),
                              _mm512_mask_blend_ps(bit5, parts[2], parts[3]));
}

// Load up to sixteen values.
inline __m512 sixteen(__mmask16 present, const float* p) {
  return _mm512_maskz_loadu_ps(present, p);
}
inline __m512 sixteen(__mmask16 present, const Half* p) {
  return _mm512_maskz_cvtph_ps(present,
                               _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 sixteen(__mmask16 present, const int8_t* p) {
  return _mm512_maskz_cvtepi32_ps(
      present,
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// Adds the products of `steps` steps, four steps at a time. `spread_places` expands the
// places of the steps to one place per value.
template <class Value, class SpreadPlaces>
inline __m512 add_steps(int steps, int places_per_step, SpreadPlaces spread_places,
                        const __m512 (&block)[8], const uint8_t*& place,
                        const Value*& value, __m512 sum) {
  for (; steps > 0; steps -= 4) {
    const int here = steps < 4 ? steps : 4;
    const auto present = static_cast<__mmask16>((1 << 4 * here) - 1);
    const __m128i places = spread_places(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(place)));
    sum = _mm512_fmadd_ps(sixteen(present, value), pick(block, places), sum);
    place += places_per_step * here;
    value += 4 * here;
  }
  return sum;
}

// For one token, a vector holds several values of the weight instead of several tokens.
template <class Value>
void product_of_token(const Structure& s, int64_t window, const void* all_values,
                      const float* x, float* y) {
  const auto* values = static_cast<const Value*>(all_values);
  std::memset(y, 0, (s.window_rows(window) + 3) * sizeof(float));
  for (int64_t b = 0; b < s.blocks; ++b) {
    const int64_t region = window * s.blocks + b;
    const Value* value = values + s.value_starts[region];
    const uint8_t* place = s.places + s.place_starts[region];
    __m512 block[8];
    for (int i = 0; i < 8; ++i) block[i] = _mm512_loadu_ps(x + b * s.block + 16 * i);
    const Group* last = s.groups + s.group_starts[region + 1];
    for (const Group* g = s.groups + s.group_starts[region]; g < last; ++g) {
      const auto twice = [](__m128i places) {
        return _mm_shuffle_epi8(places, _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5,
                                                      5, 6, 6, 7, 7));
      };
      __m512 sum = add_steps(g->pairs, 2, twice, block, place, value, __m512{});
      const auto once = [](__m128i places) { return places; };
      sum = add_steps(g->singles, 4, once, block, place, value, sum);
      // Every fourth lane belongs to the same row: lanes are added down to four sums.
      const __m256 half = _mm256_add_ps(
          _mm512_castps512_ps256(sum),
          _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sum), 1)));
      alignas(16) float four[4];
      _mm_store_ps(four, _mm_add_ps(_mm256_castps256_ps128(half),
                                    _mm256_extractf128_ps(half, 1)));
      for (int r = 0; r < 4; ++r) y[g->rows[r]] += four[r];
    }
  }
}

#endif

template <int kVectors>
constexpr spdf::Loops loops_of() {
  return {SPDF_LABEL,
          kVectors * kLanes,
          spdf::kMaxBlock,
          to_tile<kVectors>,
          from_tile<kVectors>,
          {product<kVectors, float>, product<kVectors, Half>, product<kVectors, int8_t>},
          {dense<float>, dense<Half>},
          gradient<kVectors>,
          gelu,
          gelu_gradient,
          token_sums};
}

}  // namespace

namespace spdf {

const Loops* SPDF_NAME() {
  static constexpr Loops loops[] = {
#if SPDF_VECTORS >= 4
      loops_of<4>(),
#endif
      loops_of<2>(), loops_of<1>(),
#if SPDF_BYTES == 64
      {SPDF_LABEL,
       1,
       128,
       copy_token,
       add_bias,
       {product_of_token<float>, product_of_token<Half>, product_of_token<int8_t>},
       {dense<float>, dense<Half>},
       nullptr,
       gelu,
       gelu_gradient,
       token_sums},
#endif
      Loops{}};
  return loops;
}

}  // namespace spdf
