// One pass over a kernel: its kept weights are packed block by block, moved together with
// their moments, and put back. The arithmetic is that of `Move` in update.py to the bit,
// so this file is compiled without fused multiply-adds.

#include "adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Weights of a block: two copies of them stay in the first-level cache.
constexpr int64_t kBlock = 2048;
// Weights that a thread takes at a time; a multiple of `kBlock`.
constexpr int64_t kPart = 1 << 16;
// Packing writes whole registers, past the end of the block.
constexpr int64_t kSlack = 16;

__attribute__((always_inline)) inline void move_all(const spdf_move& s, int64_t count,
                                                    const float* gradient, float* weights,
                                                    float* m, float* v) {
  const float to_m = 1.0f - s.beta_1, to_v = 1.0f - s.beta_2;
  for (int64_t i = 0; i < count; ++i) {
    // A factor of zero makes zero of NaN too.
    const float g = s.factor == 0.0f ? 0.0f : gradient[i] * s.factor;
    m[i] = m[i] + (g - m[i]) * to_m;
    v[i] = v[i] + (g * g - v[i]) * to_v;
    weights[i] = weights[i] * s.shrink - m[i] * s.alpha / (std::sqrt(v[i]) + s.epsilon);
  }
}

// The same, with alpha and epsilon of each weight's cohort.
__attribute__((always_inline)) inline void move_counted_all(
    const spdf_move& s, const spdf_cohorts& by, int64_t start, int64_t count,
    const float* gradient, float* weights, float* m, float* v) {
  const float to_m = 1.0f - s.beta_1, to_v = 1.0f - s.beta_2;
  const uint16_t* of = by.of + start;
  for (int64_t i = 0; i < count; ++i) {
    const float g = s.factor == 0.0f ? 0.0f : gradient[i] * s.factor;
    m[i] = m[i] + (g - m[i]) * to_m;
    v[i] = v[i] + (g * g - v[i]) * to_v;
    weights[i] = weights[i] * s.shrink -
                 m[i] * by.alphas[of[i]] / (std::sqrt(v[i]) + by.epsilons[of[i]]);
  }
}

__attribute__((always_inline)) inline int64_t count_all(const uint8_t* mask,
                                                        int64_t count) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i += 128) {
    uint8_t some = 0;  // of at most 128 entries, which a byte holds
    const int64_t end = std::min<int64_t>(count, i + 128);
    for (int64_t j = i; j < end; ++j) some += mask[j] != 0;
    kept += some;
  }
  return kept;
}

// Calls `take(i)` for each kept entry. A mask that is read entry by entry makes a branch
// that no processor foresees; sixty-four entries at a time make one for all of them.
template <class Take>
inline void for_kept(const uint8_t* mask, int64_t count, const Take& take) {
  for (int64_t start = 0; start < count; start += 64) {
    const int64_t end = std::min<int64_t>(count, start + 64);
    uint64_t word = 0;
    for (int64_t i = start; i < end; ++i)
      word |= static_cast<uint64_t>(mask[i] != 0) << (i - start);
    for (; word; word &= word - 1) take(start + __builtin_ctzll(word));
  }
}

int64_t pack(const uint8_t* mask, int64_t count, const float* weights, float* packed) {
  float* to = packed;
  for_kept(mask, count, [&](int64_t i) { *to++ = weights[i]; });
  return to - packed;
}

void put_back(const uint8_t* mask, int64_t count, const float* packed, float* weights) {
  for_kept(mask, count, [&](int64_t i) { weights[i] = *packed++; });
}

void move_counted_portable(const spdf_move& s, const spdf_cohorts& by, int64_t start,
                           int64_t count, const float* gradient, float* weights, float* m,
                           float* v) {
  move_counted_all(s, by, start, count, gradient, weights, m, v);
}

// What each instruction set does in its own way.
struct Steps {
  decltype(&count_all) count;
  decltype(&pack) pack_block;
  decltype(&put_back) put_block_back;
  void (*move)(const spdf_move&, int64_t, const float*, float*, float*, float*);
  decltype(&move_counted_portable) move_counted;
};

void move_portable(const spdf_move& s, int64_t count, const float* gradient,
                   float* weights, float* m, float* v) {
  move_all(s, count, gradient, weights, m, v);
}

int64_t count_portable(const uint8_t* mask, int64_t count) {
  return count_all(mask, count);
}

constexpr Steps kPortable = {count_portable, pack, put_back, move_portable,
                             move_counted_portable};

#if defined(__x86_64__)
#define SPDF_AVX512 __attribute__((target("avx512f")))

SPDF_AVX512 void move_avx512(const spdf_move& s, int64_t count, const float* gradient,
                             float* weights, float* m, float* v) {
  move_all(s, count, gradient, weights, m, v);
}

SPDF_AVX512 void move_counted_avx512(const spdf_move& s, const spdf_cohorts& by,
                                     int64_t start, int64_t count, const float* gradient,
                                     float* weights, float* m, float* v) {
  move_counted_all(s, by, start, count, gradient, weights, m, v);
}

SPDF_AVX512 int64_t count_avx512(const uint8_t* mask, int64_t count) {
  return count_all(mask, count);
}

// Returns the bits of up to 16 entries of a mask.
SPDF_AVX512 inline __mmask16 bits_of(const uint8_t* mask, int64_t count) {
  __m128i bytes = _mm_setzero_si128();
  if (count >= 16)
    bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask));
  else
    std::memcpy(&bytes, mask, count);
  const __m512i wide = _mm512_cvtepu8_epi32(bytes);
  return _mm512_test_epi32_mask(wide, wide);
}

// Values are compressed and expanded in registers, because the forms of these
// instructions with memory are slow microcode on Zen 4; a compiler would take them.
SPDF_AVX512 int64_t pack_avx512(const uint8_t* mask, int64_t count, const float* weights,
                                float* packed) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 bits = bits_of(mask + i, count - i);
    __m512 values = _mm512_maskz_loadu_ps(bits, weights + i);
    values = _mm512_maskz_compress_ps(bits, values);
    asm("" : "+v"(values));
    _mm512_storeu_ps(packed + kept, values);
    kept += __builtin_popcount(bits);
  }
  return kept;
}

SPDF_AVX512 void put_back_avx512(const uint8_t* mask, int64_t count, const float* packed,
                                 float* weights) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 bits = bits_of(mask + i, count - i);
    __m512 values = _mm512_loadu_ps(packed);
    asm("" : "+v"(values));
    _mm512_mask_storeu_ps(weights + i, bits, _mm512_maskz_expand_ps(bits, values));
    packed += __builtin_popcount(bits);
  }
}

constexpr Steps kAvx512 = {count_avx512, pack_avx512, put_back_avx512, move_avx512,
                           move_counted_avx512};
#endif

const Steps& steps() {
#if defined(__x86_64__)
  const char* set = spdf_instruction_set(nullptr);
  if (std::strcmp(set, "portable") && std::strcmp(set, "avx2")) return kAvx512;
#endif
  return kPortable;
}

}  // namespace

extern "C" uint16_t spdf_largest_cohort(const spdf_cohorts* cohorts, int64_t packed) {
  uint16_t largest = 0;
  for (int64_t i = 0; i < packed; ++i) largest = std::max(largest, cohorts->of[i]);
  return largest;
}

extern "C" int64_t spdf_adamw(const spdf_move* move, const spdf_cohorts* cohorts,
                              const uint8_t* mask, int64_t count, int64_t packed,
                              const float* gradient, float* weights, float* m, float* v,
                              spdf_parallel parallel, void* pool) {
  const Steps& of = steps();
  const auto move_some = [&](int64_t at, int64_t entries, float* there) {
    if (cohorts)
      of.move_counted(*move, *cohorts, at, entries, gradient + at, there, m + at, v + at);
    else
      of.move(*move, entries, gradient + at, there, m + at, v + at);
  };
  const int64_t parts = (count + kPart - 1) / kPart;
  const auto size = [count](int64_t part) {
    return std::min(kPart, count - part * kPart);
  };
  // Where the packed entries of each part begin, and their number.
  std::vector<int64_t> starts(parts + 1, 0);
  spdf::run(parallel, pool, parts, [&](int64_t part) {
    starts[part + 1] =
        mask ? of.count(mask + part * kPart, size(part)) : size(part);
  });
  for (int64_t part = 0; part < parts; ++part) starts[part + 1] += starts[part];
  if (starts[parts] != packed) return starts[parts];
  spdf::run(parallel, pool, parts, [&](int64_t part) {
    int64_t at = starts[part];
    if (!mask) {
      move_some(at, size(part), weights + at);
      return;
    }
    float kept[kBlock + kSlack];
    for (int64_t block = 0; block < size(part); block += kBlock) {
      const int64_t entries = std::min(kBlock, size(part) - block);
      const uint8_t* own = mask + part * kPart + block;
      float* there = weights + part * kPart + block;
      const int64_t found = of.pack_block(own, entries, there, kept);
      move_some(at, found, kept);
      of.put_block_back(own, entries, kept, there);
      at += found;
    }
  });
  return packed;
}
