// What the loops of AVX-512 for expanding weights share: rounding and expanding.

#ifndef SPDF_EXPAND_AVX512_H_
#define SPDF_EXPAND_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "expanding.h"

namespace {

using spdf::Expanding;
using spdf::Integers;

// Loads 64 bytes with an instruction of its own: expanding from memory is slow microcode
// on Zen 4, and a compiler would join the two.
inline __m512i load_bytes(const void* p) {
  __m512i v = _mm512_loadu_si512(p);
  asm("" : "+v"(v));
  return v;
}

// Expands the next 64 entries of a row.
inline __m512i expand(uint64_t word, const int8_t*& value) {
  const __m512i bytes = _mm512_maskz_expand_epi8(word, load_bytes(value));
  value += __builtin_popcountll(word);
  return bytes;
}

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

// Rounds one token to 0 ... 255 and writes it by `store(column, sixteen integers)`.
template <class Store>
inline void round_token(const float* x, int64_t columns, int64_t padded, float* scale,
                        int32_t* zero, const Store& store) {
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int64_t c = 0; c < columns; c += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(columns - c), x + c);
    low = _mm512_min_ps(low, v), high = _mm512_max_ps(high, v);
  }
  const float least = _mm512_reduce_min_ps(low), range = _mm512_reduce_max_ps(high) - least;
  *scale = range > 0 ? range / 255 : 1;
  const float steps = 1 / *scale;
  *zero = static_cast<int32_t>(_mm_cvtss_si32(_mm_set_ss(-least * steps)));
  const __m512i origin = _mm512_set1_epi32(*zero);
  for (int64_t c = 0; c < padded; c += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(columns - c), x + c);
    __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(steps)));
    q = _mm512_add_epi32(q, origin);
    store(c, _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512())));
  }
}

}  // namespace

#endif  // SPDF_EXPAND_AVX512_H_
