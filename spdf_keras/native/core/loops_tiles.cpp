// The loops of tiles for AMX with bfloat16.
//
// Nothing here is a template of the standard library: see loops_vnni.cpp.

#include <immintrin.h>

#include <cstring>

#include "amx.h"
#include "tiles.h"
#include "transpose_avx512.h"

namespace {

using spdf::Compressed;
using spdf::kTileStep;

// Numbers of bfloat16 in a tile.
constexpr int64_t kTileSize = kTile * kTileStep;

int64_t steps_of(int64_t size) { return (size + kTileStep - 1) / kTileStep; }

inline __mmask32 first_lanes(int64_t count) {
  return count >= 32 ? ~__mmask32{0} : count <= 0 ? 0 : (__mmask32{1} << count) - 1;
}

// Returns the bits of entries [column, column + 32) of a row; `column` is a multiple of 32.
inline __mmask32 bits_at(const Compressed& k, int64_t row, int64_t column) {
  if (row >= k.in || column >= k.out) return 0;
  return static_cast<__mmask32>(k.bits[row * k.words + column / 64] >> column % 64);
}

// Returns the position of the first kept value at or behind an entry, or of none.
inline int64_t start_of(const Compressed& k, int64_t row, int64_t column) {
  if (row >= k.in || column >= k.out) return 0;
  const int64_t word = row * k.words + column / 64;
  const uint64_t before = column % 64 ? k.bits[word] & 0xffffffff : 0;
  return k.starts[word] + __builtin_popcountll(before);
}

// Expands the next 32 entries of a row. Expanding from memory would be slow microcode.
inline __m512i expanded(__mmask32 bits, const uint16_t*& value) {
  __m512i values = _mm512_loadu_si512(value);
  asm("" : "+v"(values));
  value += __builtin_popcount(bits);
  return _mm512_maskz_expand_epi16(bits, values);
}

void round_values(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i += 32) {
    const __mmask32 there = first_lanes(count - i);
    const __m512 a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there), from + i);
    const __m512 b =
        _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> 16), from + i + 16);
    _mm512_mask_storeu_epi16(to + i, there, (__m512i)_mm512_cvtne2ps_pbh(b, a));
  }
}

// A pair of tiles for a step has 32 columns of 32 rows. Its first tile has columns 0-3,
// 8-11, 16-19 and 24-27, as unpacking leaves them; `kNatural` undoes it in a result.
alignas(64) const uint16_t kNatural[32] = {0,  1,  2,  3,  16, 17, 18, 19, 4,  5,  6,
                                           7,  20, 21, 22, 23, 8,  9,  10, 11, 24, 25,
                                           26, 27, 12, 13, 14, 15, 28, 29, 30, 31};
alignas(64) const int32_t kUnpacked[2][16] = {
    {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
    {4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31}};

// Tiles lie by pair, step and tile of the pair.
inline uint16_t* tile_at(uint16_t* tiles, int64_t pair, int64_t steps, int64_t step) {
  return tiles + (pair * steps + step) * 2 * kTileSize;
}

void expand_columns(const Compressed& k, int64_t first, int64_t last, uint16_t* tiles) {
  const int64_t steps = steps_of(k.in);
  for (int64_t row = 0; row < steps * kTileStep; row += 2) {
    const uint16_t* value = k.values + start_of(k, row, first);
    const uint16_t* other = k.values + start_of(k, row + 1, first);
    for (int64_t pair = 0; first + 32 * pair < last; ++pair) {
      const __m512i a = expanded(bits_at(k, row, first + 32 * pair), value);
      const __m512i b = expanded(bits_at(k, row + 1, first + 32 * pair), other);
      uint16_t* to = tile_at(tiles, pair, steps, row / kTileStep) + row % kTileStep * 16;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(to + kTileSize, _mm512_unpackhi_epi16(a, b));
    }
  }
}

void expand_rows(const Compressed& k, int64_t first, int64_t last, uint16_t* tiles) {
  const int64_t steps = steps_of(k.out);
  for (int64_t half = 0; half < 2 * steps_of(last - first); ++half) {
    const int64_t row = first + half * kTile;
    const uint16_t* values[kTile];
    for (int64_t r = 0; r < kTile; ++r) values[r] = k.values + start_of(k, row + r, 0);
    for (int64_t step = 0; step < steps; ++step) {
      __m512i square[16];
#pragma GCC unroll 16
      for (int64_t r = 0; r < kTile; ++r)
        square[r] = expanded(bits_at(k, row + r, step * kTileStep), values[r]);
      transpose(square);
      uint16_t* to = tile_at(tiles, half / 2, steps, step) + half % 2 * kTileSize;
#pragma GCC unroll 16
      for (int64_t r = 0; r < kTile; ++r) _mm512_store_si512(to + 32 * r, square[r]);
    }
  }
}

// Sums of two tiles of tokens and a pair of tiles. Tile 0 and 1 have the first tokens.
alignas(64) thread_local float sums[4 * 256];

// Multiplies up to 32 tokens by a pair of tiles.
template <bool kBoth>
inline void multiply(const uint16_t* tokens, int64_t stride, const uint16_t* tiles,
                     int64_t steps) {
  _tile_zero(0);
  _tile_zero(1);
  if (kBoth) {
    _tile_zero(2);
    _tile_zero(3);
  }
  const uint16_t* others = tokens + kTile * stride;
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, tokens + step * kTileStep, 2 * stride);
    _tile_loadd(6, tiles + step * 2 * kTileSize, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, tiles + step * 2 * kTileSize + kTileSize, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    if (kBoth) {
      _tile_loadd(5, others + step * kTileStep, 2 * stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kTileBytes);
  _tile_stored(1, sums + 256, kTileBytes);
  if (kBoth) {
    _tile_stored(2, sums + 512, kTileBytes);
    _tile_stored(3, sums + 768, kTileBytes);
  }
}

// Biases of up to 32 columns, in the order of the sums.
struct Biases {
  __m512 low = _mm512_setzero_ps(), high = low;

  template <bool kIsUnpacked>
  static Biases load(const float* bias, __mmask32 there) {
    Biases loaded;
    if (!bias) return loaded;
    const __m512 a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there), bias);
    const __m512 b = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> 16), bias + 16);
    loaded.low =
        kIsUnpacked ? _mm512_permutex2var_ps(a, _mm512_load_si512(kUnpacked[0]), b) : a;
    loaded.high =
        kIsUnpacked ? _mm512_permutex2var_ps(a, _mm512_load_si512(kUnpacked[1]), b) : b;
    return loaded;
  }
};

// Writes the two sums of a token, for up to 32 columns.
template <bool kIsUnpacked>
inline void write_token(const float* low, const float* high, const Biases& biases,
                        __mmask32 there, uint16_t* y) {
  const __m512 a = _mm512_add_ps(_mm512_load_ps(low), biases.low);
  const __m512 b = _mm512_add_ps(_mm512_load_ps(high), biases.high);
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
  if (kIsUnpacked) both = _mm512_permutexvar_epi16(_mm512_load_si512(kNatural), both);
  _mm512_mask_storeu_epi16(y, there, both);
}

// Writes the sums of up to 32 tokens, for up to 32 columns.
template <bool kIsUnpacked>
inline void write_sums(int64_t tokens, const float* bias, int64_t columns, int64_t stride,
                       uint16_t* y) {
  const __mmask32 there = first_lanes(columns);
  const Biases biases = Biases::load<kIsUnpacked>(bias, there);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* from = sums + t / kTile * 512 + t % kTile * kTile;
    write_token<kIsUnpacked>(from, from + 256, biases, there, y + t * stride);
  }
}

// Computes columns [first, last) for tokens [token, end); see `product` and `back`. `inner`
// is the length of a token, `outer` that of a result.
template <bool kIsUnpacked>
void multiply_block(const uint16_t* tiles, const uint16_t* x, int64_t inner,
                    const float* bias, int64_t first, int64_t last, int64_t outer,
                    int64_t token, int64_t end, uint16_t* room, uint16_t* y) {
  const int64_t steps = steps_of(inner);
  int64_t rows = 0;
  for (; token < end; token += 32) {
    const int64_t count = end - token < 32 ? end - token : 32;
    if (rows != count) {
      TileConfig config;
      const auto low = static_cast<uint8_t>(count < kTile ? count : kTile);
      const auto high = static_cast<uint8_t>(count > kTile ? count - kTile : kTile);
      config.rows[0] = config.rows[1] = config.rows[4] = low;
      config.rows[2] = config.rows[3] = config.rows[5] = high;
      _tile_loadconfig(&config);
      rows = count;
    }
    const uint16_t* tokens = x + token * inner;
    int64_t stride = inner;
    if (inner % kTileStep) {
      stride = steps * kTileStep;
      for (int64_t t = 0; t < count; ++t) {
        std::memcpy(room + t * stride, tokens + t * inner, 2 * inner);
        std::memset(room + t * stride + inner, 0, 2 * (stride - inner));
      }
      tokens = room;
    }
    for (int64_t column = first; column < last; column += 32) {
      const uint16_t* own = tiles + (column - first) / 32 * steps * 2 * kTileSize;
      if (count > kTile) multiply<true>(tokens, stride, own, steps);
      else multiply<false>(tokens, stride, own, steps);
      write_sums<kIsUnpacked>(count, bias ? bias + column : nullptr, outer - column, outer,
                              y + token * outer + column);
    }
  }
  _tile_release();
}

void product(const Compressed& k, int64_t first, int64_t last, const uint16_t* tiles,
             const uint16_t* x, const float* bias, int64_t token, int64_t end,
             uint16_t* room, uint16_t* y) {
  multiply_block<true>(tiles, x, k.in, bias, first, last, k.out, token, end, room, y);
}

// Rows of the kernel that are added at a time.
constexpr int64_t kRows = 8;

// Adds all rows, times the inputs of each token, to sums that lie as pairs of unpacked
// columns: rows are read from their start to their end, which prefetching needs.
template <int kTokens>
void add_rows(const Compressed& k, int64_t first, int64_t last, const int32_t* inputs,
              float* all_sums) {
  const int64_t width = (last - first + 31) / 32 * 32, pairs = (k.in + kRows - 1) / kRows * 4;
  for (int64_t row = 0; row < k.in; row += kRows) {
    const uint16_t* values[kRows];
    for (int64_t r = 0; r < kRows; ++r) values[r] = k.values + start_of(k, row + r, first);
    for (int64_t column = 0; column < width; column += 32) {
      __m512 sum[kTokens][2];
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sum[t][0] = _mm512_load_ps(all_sums + t * width + column);
        sum[t][1] = _mm512_load_ps(all_sums + t * width + column + 16);
      }
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRows; r += 2) {
        const __m512i a = expanded(bits_at(k, row + r, first + column), values[r]);
        const __m512i b = expanded(bits_at(k, row + r + 1, first + column), values[r + 1]);
        const auto low = (__m512bh)_mm512_unpacklo_epi16(a, b);
        const auto high = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          const auto x = (__m512bh)_mm512_set1_epi32(inputs[t * pairs + (row + r) / 2]);
          sum[t][0] = _mm512_dpbf16_ps(sum[t][0], low, x);
          sum[t][1] = _mm512_dpbf16_ps(sum[t][1], high, x);
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        _mm512_store_ps(all_sums + t * width + column, sum[t][0]);
        _mm512_store_ps(all_sums + t * width + column + 16, sum[t][1]);
      }
    }
  }
}

void few(const Compressed& k, int64_t first, int64_t last, const uint16_t* x,
         const float* bias, int64_t tokens, float* room, uint16_t* y) {
  const int64_t width = (last - first + 31) / 32 * 32, inner = (k.in + kRows - 1) / kRows * kRows;
  std::memset(room, 0, tokens * width * sizeof(float));
  auto* inputs = reinterpret_cast<uint16_t*>(room + tokens * width);
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(inputs + t * inner, x + t * k.in, 2 * k.in);
    std::memset(inputs + t * inner + k.in, 0, 2 * (inner - k.in));
  }
  const auto* pairs = reinterpret_cast<const int32_t*>(inputs);
  static_assert(spdf::kFewTokens == 4);
  switch (tokens) {
    case 1: add_rows<1>(k, first, last, pairs, room); break;
    case 2: add_rows<2>(k, first, last, pairs, room); break;
    case 3: add_rows<3>(k, first, last, pairs, room); break;
    default: add_rows<4>(k, first, last, pairs, room);
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t column = first; column < last; column += 32) {
      const __mmask32 there = first_lanes(last - column);
      const float* from = room + t * width + column - first;
      write_token<true>(from, from + 16,
                        Biases::load<true>(bias ? bias + column : nullptr, there), there,
                        y + t * k.out + column);
    }
}

void back(const Compressed& k, int64_t first, int64_t last, const uint16_t* tiles,
          const uint16_t* dy, int64_t token, int64_t end, uint16_t* room, uint16_t* dx) {
  multiply_block<false>(tiles, dy, k.out, nullptr, first, last, k.in, token, end, room, dx);
}

// Loads 32 numbers of two successive tokens, and pairs them: the first result has the
// columns 0-3, 8-11, 16-19 and 24-27 of both.
inline void load_pair(const uint16_t* x, int64_t columns, int64_t column, int64_t token,
                      int64_t count, __m512i& low, __m512i& high) {
  const __mmask32 there = first_lanes(columns - column);
  const uint16_t* from = x + token * columns + column;
  const __m512i a = _mm512_maskz_loadu_epi16(token < count ? there : 0, from);
  const __m512i b =
      _mm512_maskz_loadu_epi16(token + 1 < count ? there : 0, from + columns);
  low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
}

// Tiles of 16 columns and 32 tokens lie by pair of tiles, step and tile of the pair.
void order_x(const uint16_t* x, int64_t columns, int64_t count, int64_t step,
             int64_t steps, uint16_t* tiles) {
  for (int64_t pair = 0; pair < steps_of(columns); ++pair) {
    __m512i low[16], high[16];
#pragma GCC unroll 16
    for (int64_t r = 0; r < 16; ++r)
      load_pair(x, columns, 32 * pair, 2 * r, count, low[r], high[r]);
    transpose(low);
    transpose(high);
    uint16_t* to = tile_at(tiles, pair, steps, step);
#pragma GCC unroll 16
    for (int64_t r = 0; r < 16; ++r) {
      const int64_t row = r / 4 * 8 + r % 4;
      _mm512_store_si512(to + row * 32, low[r]);
      _mm512_store_si512(to + (row + 4) * 32, high[r]);
    }
  }
}

// Tiles of 32 tokens, in pairs, and 16 columns lie likewise.
void order_dy(const uint16_t* dy, int64_t columns, int64_t count, int64_t step,
              int64_t steps, uint16_t* tiles) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int64_t pair = 0; pair < steps_of(columns); ++pair) {
    uint16_t* to = tile_at(tiles, pair, steps, step);
    for (int64_t r = 0; r < 16; ++r) {
      __m512i low, high;
      load_pair(dy, columns, 32 * pair, 2 * r, count, low, high);
      _mm512_store_si512(to + 32 * r, _mm512_permutex2var_epi64(low, first, high));
      _mm512_store_si512(to + kTileSize + 32 * r,
                         _mm512_permutex2var_epi64(low, second, high));
    }
  }
}

// Writes or adds sixteen entries' kept values; returns the place of the next.
template <bool kAdds>
inline float* put(__mmask16 bits, __m512 entries, float* kept) {
  const int count = __builtin_popcount(bits);
  const auto there = static_cast<__mmask16>((1u << count) - 1);
  __m512 values = _mm512_maskz_compress_ps(bits, entries);
  if (kAdds) values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(there, kept));
  _mm512_mask_storeu_ps(kept, there, values);
  return kept + count;
}

// Writes or adds the kept ones of 32 rows and 32 columns of sums.
template <bool kAdds>
void put_square(const Compressed& k, int64_t row, int64_t column, float* gradient) {
  for (int64_t r = 0; r < 32 && row + r < k.in; ++r) {
    const __mmask32 bits = bits_at(k, row + r, column);
    const float* from = sums + r / kTile * 512 + r % kTile * kTile;
    float* to = gradient + start_of(k, row + r, column);
    to = put<kAdds>(static_cast<__mmask16>(bits), _mm512_load_ps(from), to);
    put<kAdds>(static_cast<__mmask16>(bits >> 16), _mm512_load_ps(from + 256), to);
  }
}

// Multiplies a pair of tiles of x by a pair of dy over all tokens.
inline void multiply_pairs(const uint16_t* x, const uint16_t* dy, int64_t steps) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t at = step * 2 * kTileSize;
    _tile_loadd(4, x + at, kTileBytes);
    _tile_loadd(6, dy + at, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, dy + at + kTileSize, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + at + kTileSize, kTileBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kTileBytes);
  _tile_stored(1, sums + 256, kTileBytes);
  _tile_stored(2, sums + 512, kTileBytes);
  _tile_stored(3, sums + 768, kTileBytes);
}

void gradient(const Compressed& k, int64_t first, int64_t last, const uint16_t* x_tiles,
              const uint16_t* dy_tiles, int64_t steps, bool adds, float* gradient) {
  const TileConfig config;
  _tile_loadconfig(&config);
  const int64_t pair_size = steps * 2 * kTileSize;
  for (int64_t column = 0; column < k.out; column += 32)
    for (int64_t row = first; row < last; row += 32) {
      multiply_pairs(x_tiles + row / 32 * pair_size, dy_tiles + column / 32 * pair_size,
                     steps);
      if (adds) put_square<true>(k, row, column, gradient);
      else put_square<false>(k, row, column, gradient);
    }
  _tile_release();
}

}  // namespace

namespace spdf {

const TileLoops* tile_loops() {
  static constexpr TileLoops loops{round_values, expand_columns, expand_rows, product, few, back,
                                   order_x,      order_dy,       gradient};
  static const bool usable = permitted(kBfloat16Bit) && __builtin_cpu_supports("avx512vbmi2");
  return usable ? &loops : nullptr;
}

}  // namespace spdf
