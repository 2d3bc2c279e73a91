// The loops of expanding weights for 64-bit Arm with products of four bytes (SDOT).
//
// Nothing here is a template of the standard library: see loops_vnni.cpp.

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "expanding.h"

namespace {

using spdf::Expanding;
using spdf::Integers;

// Rows and tokens whose sums stay in registers.
constexpr int kRows = 4, kTokens = 4;

// For each byte of bits: which of the next values goes to each of its eight entries; 255
// gives zero.
struct Places {
  alignas(8) uint8_t of[256][8];
  constexpr Places() : of() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, next = 0; bit < 8; ++bit) {
        const bool kept = byte >> bit & 1;
        of[byte][bit] = static_cast<uint8_t>(kept ? next : 255);
        next += kept;
      }
  }
};
constexpr Places kPlaces;

int64_t padded_tokens(int64_t tokens) { return tokens; }

int64_t scratch_floats(const Expanding& w, int64_t) { return kRows * w.words * 16; }

// Rounds tokens to -128 ... 127, as SDOT multiplies signed bytes.
void round_tokens(const float* all, int64_t columns, const Integers& q, int64_t first,
                  int64_t last) {
  for (int64_t t = first; t < last; ++t) {
    const float* x = all + t * columns;
    float low = 0, high = 0;
    for (int64_t c = 0; c < columns; ++c) {
      low = x[c] < low ? x[c] : low;
      high = x[c] > high ? x[c] : high;
    }
    q.scales[t] = high > low ? (high - low) / 255 : 1;
    const float steps = 1 / q.scales[t];
    q.zeros[t] = static_cast<int32_t>(-low * steps + 0.5f) - 128;
    auto* out = reinterpret_cast<int8_t*>(q.values + t * q.padded_columns);
    for (int64_t c = 0; c < q.padded_columns; ++c) {
      const float step = c < columns ? x[c] * steps : 0.0f;
      const int32_t integer =
          static_cast<int32_t>(step + (step < 0 ? -0.5f : 0.5f)) + q.zeros[t];
      out[c] = static_cast<int8_t>(integer < -128 ? -128 : integer > 127 ? 127 : integer);
    }
  }
}

void expand_row(const Expanding& w, int64_t row, int8_t* out) {
  const int8_t* value = w.values + w.starts[row];
  for (int64_t i = 0; i < w.words; ++i) {
    uint64_t word = w.bits[row * w.words + i];
    for (int part = 0; part < 8; ++part, word >>= 8, out += 8) {
      const uint8_t byte = static_cast<uint8_t>(word);
      vst1_s8(out, vqtbl1_s8(vld1q_s8(value), vld1_u8(kPlaces.of[byte])));
      value += __builtin_popcount(byte);
    }
  }
}

// Multiplies `kRows` expanded rows by `kCount` tokens.
template <int kCount>
void block_product(const Expanding& w, const Integers& x, const float* bias, int64_t row,
                   int64_t rows, int64_t token, const int8_t* expanded, float* y) {
  const int64_t length = w.words * 64;
  const auto* inputs = reinterpret_cast<const int8_t*>(x.values);
  int32x4_t sums[kRows][kCount] = {};
  for (int64_t c = 0; c < length; c += 16) {
    int8x16_t loaded[kCount];
    for (int t = 0; t < kCount; ++t)
      loaded[t] = vld1q_s8(inputs + (token + t) * x.padded_columns + c);
    for (int r = 0; r < kRows; ++r) {
      const int8x16_t weight = vld1q_s8(expanded + r * length + c);
      for (int t = 0; t < kCount; ++t)
        sums[r][t] = vdotq_s32(sums[r][t], weight, loaded[t]);
    }
  }
  for (int t = 0; t < kCount; ++t)
    for (int r = 0; r < rows; ++r) {
      const int32_t sum = vaddvq_s32(sums[r][t]) - x.zeros[token + t] * w.sums[row + r];
      y[(token + t) * w.rows + row + r] =
          w.scales[row + r] * x.scales[token + t] * static_cast<float>(sum) +
          (bias ? bias[row + r] : 0.0f);
    }
}

void product(const Expanding& w, const Integers& x, const float* bias, int64_t first,
             int64_t last, float* scratch, float* y) {
  auto* room = reinterpret_cast<int8_t*>(scratch);
  const int64_t length = w.words * 64;
  for (int64_t row = first; row < last; row += kRows) {
    const int64_t rows = last - row < kRows ? last - row : kRows;
    const int8_t* expanded = w.bits ? room : w.values + row * length;
    // A missing row repeats the last one, and its sums are not stored.
    for (int64_t r = 0; w.bits && r < kRows; ++r)
      expand_row(w, r < rows ? row + r : last - 1, room + r * length);
    int64_t token = 0;
    for (; token + kTokens <= x.tokens; token += kTokens)
      block_product<kTokens>(w, x, bias, row, rows, token, expanded, y);
    for (; token < x.tokens; ++token)
      block_product<1>(w, x, bias, row, rows, token, expanded, y);
  }
}

bool has_sdot() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
  return true;  // every 64-bit Arm processor of Apple has it
#endif
}

}  // namespace

namespace spdf {

const ExpandingLoops* neon_loops() {
  static constexpr ExpandingLoops loops{"neon", padded_tokens, round_tokens,
                                        scratch_floats, product};
  return has_sdot() ? &loops : nullptr;
}

}  // namespace spdf
