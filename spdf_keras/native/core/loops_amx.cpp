// The loops of expanding weights for AMX, whose tiles multiply 16 rows by 16 tokens.
//
// Nothing here is a template of the standard library: see loops_vnni.cpp.

#include "amx.h"
#include "expand_avx512.h"
#include "transpose_avx512.h"

namespace {

// Columns of a step.
constexpr int64_t kStep = kTileBytes;
static_assert(spdf::kRowBlock == 2 * kTile);

int64_t padded_tokens(int64_t tokens) {
  return (tokens + 2 * kTile - 1) / (2 * kTile) * 2 * kTile;
}

// Writes tokens as tiles (token block, step, 16 groups of 4 columns, 16 tokens, 4).
void round_tokens(const float* x, int64_t columns, const Integers& q, int64_t first,
                  int64_t last) {
  const int64_t steps = q.padded_columns / kStep;
  const __m512i apart = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
      _mm512_set1_epi32(static_cast<int>(kTile)));
  for (int64_t t = first; t < last; ++t) {
    uint8_t* tile = q.values + t / kTile * steps * 1024 + t % kTile * 4;
    if (t >= q.tokens) {
      q.scales[t] = 0, q.zeros[t] = 0;
      for (int64_t step = 0; step < steps; ++step)
        _mm512_i32scatter_epi32(tile + step * 1024, apart, _mm512_setzero_si512(), 4);
      continue;
    }
    alignas(64) uint8_t line[kStep];
    round_token(x + t * columns, columns, q.padded_columns, q.scales + t, q.zeros + t,
                [&](int64_t c, __m128i bytes) {
                  _mm_store_si128(reinterpret_cast<__m128i*>(line + c % kStep), bytes);
                  if (c % kStep != kStep - 16) return;
                  _mm512_i32scatter_epi32(tile + c / kStep * 1024, apart,
                                          _mm512_load_si512(line), 4);
                });
  }
}

// Expanded rows, and four tiles of sums.
int64_t scratch_floats(const Expanding& w, int64_t) {
  return 2 * kTile * w.words * 16 + 4 * 256;
}

// Writes a tile of sums (16 rows, 16 tokens) as tokens.
void write(const Expanding& w, const Integers& x, const float* bias, int64_t row,
           int64_t rows, int64_t token, const int32_t* sums, float* y) {
  const __m512 scales = _mm512_loadu_ps(x.scales + token);
  const __m512i zeros = _mm512_loadu_si512(x.zeros + token);
  __m512i out[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    const int64_t read = r < rows ? row + r : row;
    const __m512i sum =
        _mm512_sub_epi32(_mm512_load_si512(sums + 16 * r),
                         _mm512_mullo_epi32(zeros, _mm512_set1_epi32(w.sums[read])));
    const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(w.scales[read]));
    out[r] = _mm512_castps_si512(
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor,
                        _mm512_set1_ps(bias ? bias[read] : 0.0f)));
  }
  transpose(out);
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t)
    if (token + t < x.tokens)
      _mm512_mask_storeu_ps(y + (token + t) * w.rows + row, first_lanes(rows),
                            _mm512_castsi512_ps(out[t]));
}

void product(const Expanding& w, const Integers& x, const float* bias, int64_t first,
             int64_t last, float* scratch, float* y) {
  const TileConfig config;
  _tile_loadconfig(&config);
  auto* room = reinterpret_cast<int8_t*>(scratch);
  const int64_t length = w.words * kStep;
  auto* sums = reinterpret_cast<int32_t*>(room + 2 * kTile * length);
  for (int64_t row = first; row < last; row += 2 * kTile) {
    const int64_t rows = last - row < 2 * kTile ? last - row : 2 * kTile;
    const int8_t* expanded = expanded_rows(w, row, 2 * kTile, room);
    for (int64_t token = 0; token < x.tokens; token += 2 * kTile) {
      const uint8_t* tiles = x.values + token / kTile * w.words * 1024;
      const uint8_t* others = tiles + w.words * 1024;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t i = 0; i < w.words; ++i) {
        _tile_loadd(4, expanded + kStep * i, length);
        _tile_loadd(6, tiles + 1024 * i, kStep);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, others + 1024 * i, kStep);
        _tile_dpbsud(1, 4, 7);
        _tile_loadd(5, expanded + kTile * length + kStep * i, length);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
      _tile_stored(0, sums, kStep);
      _tile_stored(1, sums + 256, kStep);
      _tile_stored(2, sums + 512, kStep);
      _tile_stored(3, sums + 768, kStep);
      for (int part = 0; part < 4; ++part) {
        const int64_t at = part / 2 * kTile, own = rows - at < kTile ? rows - at : kTile;
        const int64_t from = token + part % 2 * kTile;
        if (own > 0 && from < x.tokens)
          write(w, x, bias, row + at, own, from, sums + 256 * part, y);
      }
    }
  }
  _tile_release();
}

}  // namespace

namespace spdf {

const ExpandingLoops* amx_loops() {
  static constexpr ExpandingLoops loops{"amx", padded_tokens, round_tokens,
                                        scratch_floats, product};
  return permitted(kInt8Bit) ? &loops : nullptr;
}

}  // namespace spdf
