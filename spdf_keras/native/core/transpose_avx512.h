// Transposes a square of 16 x 16 values of 32 bits in registers.

#ifndef SPDF_TRANSPOSE_AVX512_H_
#define SPDF_TRANSPOSE_AVX512_H_

#include <immintrin.h>

namespace {

template <int kDistance>
inline void exchange(__m512i (&v)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i & kDistance) continue;
    const __m512i a = v[i], b = v[i + kDistance];
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i inside = _mm512_and_si512(lanes, _mm512_set1_epi32(kDistance));
    const __mmask16 high = _mm512_test_epi32_mask(inside, inside);
    // The low half takes lanes of b from `kDistance` further left, the high half of a.
    const __m512i left = _mm512_sub_epi32(lanes, _mm512_set1_epi32(kDistance));
    const __m512i right = _mm512_add_epi32(lanes, _mm512_set1_epi32(kDistance));
    v[i] = _mm512_mask_permutexvar_epi32(a, high, left, b);
    v[i + kDistance] = _mm512_mask_permutexvar_epi32(b, static_cast<__mmask16>(~high), right, a);
  }
}

inline void transpose(__m512i (&rows)[16]) {
  exchange<8>(rows), exchange<4>(rows), exchange<2>(rows), exchange<1>(rows);
}

}  // namespace

#endif  // SPDF_TRANSPOSE_AVX512_H_
