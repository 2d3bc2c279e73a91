// The loops of expanding weights for AVX-512 with VBMI2 and VNNI.
//
// Nothing here is a template of the standard library: a linker keeps one copy of such code
// for all files, and other processors would stop at this one.

#include "expand_avx512.h"

namespace {

// Rows and tokens whose sums stay in registers.
constexpr int kRows = 4, kTokens = 6;

int64_t padded_tokens(int64_t tokens) { return tokens; }

void round_tokens(const float* x, int64_t columns, const Integers& q, int64_t first,
                  int64_t last) {
  for (int64_t t = first; t < last; ++t)
    round_token(x + t * columns, columns, q.padded_columns, q.scales + t, q.zeros + t,
                [&](int64_t c, __m128i bytes) {
                  _mm_storeu_si128(
                      reinterpret_cast<__m128i*>(q.values + t * q.padded_columns + c),
                      bytes);
                });
}

int64_t scratch_floats(const Expanding& w, int64_t tokens) {
  return tokens > kTokens ? kRows * w.words * 16 : 0;
}

// Returns a product of integers as a float.
inline float finished(const Expanding& w, const Integers& x, int64_t row, int64_t token,
                      int32_t sum, const float* bias) {
  return w.scales[row] * x.scales[token] *
             static_cast<float>(sum - x.zeros[token] * w.sums[row]) +
         (bias ? bias[row] : 0.0f);
}

// Returns the next 64 entries of a row.
template <bool kDense>
inline __m512i next_entries(const uint64_t* bits, int64_t i, const int8_t*& value) {
  if constexpr (kDense) {
    value += 64;
    return _mm512_loadu_si512(value - 64);
  } else {
    return expand(bits[i], value);
  }
}

// Computes one row for a few tokens; the row is expanded in registers.
template <int kCount, bool kDense>
void row_product(const Expanding& w, const Integers& x, const float* bias, int64_t row,
                 float* y) {
  const uint64_t* bits = kDense ? nullptr : w.bits + row * w.words;
  const int8_t* value = w.values + w.starts[row];
  // Two sums for each token, since one would wait for itself.
  __m512i sums[kCount][2] = {};
  int64_t i = 0;
  for (; i + 2 <= w.words; i += 2) {
    const __m512i a = next_entries<kDense>(bits, i, value);
    const __m512i b = next_entries<kDense>(bits, i + 1, value);
#pragma GCC unroll 8
    for (int t = 0; t < kCount; ++t) {
      const uint8_t* at = x.values + t * x.padded_columns + 64 * i;
      sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], _mm512_loadu_si512(at), a);
      sums[t][1] = _mm512_dpbusd_epi32(sums[t][1], _mm512_loadu_si512(at + 64), b);
    }
  }
  if (i < w.words) {
    const __m512i a = next_entries<kDense>(bits, i, value);
    for (int t = 0; t < kCount; ++t)
      sums[t][0] = _mm512_dpbusd_epi32(
          sums[t][0], _mm512_loadu_si512(x.values + t * x.padded_columns + 64 * i), a);
  }
  for (int t = 0; t < kCount; ++t)
    y[t * w.rows + row] = finished(
        w, x, row, t, _mm512_reduce_add_epi32(_mm512_add_epi32(sums[t][0], sums[t][1])),
        bias);
}

// Multiplies `kRows` expanded rows by `kCount` tokens.
template <int kCount>
void block_product(const Expanding& w, const Integers& x, const float* bias, int64_t row,
                   int64_t rows, int64_t token, const int8_t* expanded, float* y) {
  const int64_t length = w.words * 64;
  __m512i sums[kRows][kCount] = {};
  for (int64_t c = 0; c < length; c += 64) {
    __m512i inputs[kCount];
#pragma GCC unroll 8
    for (int t = 0; t < kCount; ++t)
      inputs[t] = _mm512_loadu_si512(x.values + (token + t) * x.padded_columns + c);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512i weight = _mm512_loadu_si512(expanded + r * length + c);
#pragma GCC unroll 8
      for (int t = 0; t < kCount; ++t)
        sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], inputs[t], weight);
    }
  }
  for (int t = 0; t < kCount; ++t)
    for (int r = 0; r < rows; ++r)
      y[(token + t) * w.rows + row + r] = finished(
          w, x, row + r, token + t, _mm512_reduce_add_epi32(sums[r][t]), bias);
}

// Computes rows one after the other.
template <bool kDense>
void row_products(const Expanding& w, const Integers& x, const float* bias, int64_t first,
                  int64_t last, float* y) {
  static constexpr decltype(&row_product<1, kDense>) kByCount[] = {
      row_product<1, kDense>, row_product<2, kDense>, row_product<3, kDense>,
      row_product<4, kDense>, row_product<5, kDense>, row_product<6, kDense>};
  static_assert(kTokens == 6);
  for (int64_t row = first; row < last; ++row) kByCount[x.tokens - 1](w, x, bias, row, y);
}

void product(const Expanding& w, const Integers& x, const float* bias, int64_t first,
             int64_t last, float* scratch, float* y) {
  if (x.tokens <= kTokens) {
    return w.bits ? row_products<false>(w, x, bias, first, last, y)
                  : row_products<true>(w, x, bias, first, last, y);
  }
  for (int64_t row = first; row < last; row += kRows) {
    const int64_t rows = last - row < kRows ? last - row : kRows;
    const int8_t* expanded =
        expanded_rows(w, row, kRows, reinterpret_cast<int8_t*>(scratch));
    int64_t token = 0;
    for (; token + kTokens <= x.tokens; token += kTokens)
      block_product<kTokens>(w, x, bias, row, rows, token, expanded, y);
    for (; token < x.tokens; ++token)
      block_product<1>(w, x, bias, row, rows, token, expanded, y);
  }
}

}  // namespace

namespace spdf {

const ExpandingLoops* vnni_loops() {
  static constexpr ExpandingLoops loops{"vnni", padded_tokens, round_tokens,
                                        scratch_floats, product};
  return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
             ? &loops
             : nullptr;
}

}  // namespace spdf
