// Permission to use the tiles of AMX, and their configuration.

#ifndef SPDF_AMX_H_
#define SPDF_AMX_H_

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace {

// Rows of a tile, and bytes of a row.
constexpr int64_t kTile = 16, kTileBytes = 64;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig() {
    for (int i = 0; i < 8; ++i) rows[i] = kTile, bytes[i] = kTileBytes;
  }
};

// Bits of the processor's features, EDX of leaf 7.
constexpr int kBfloat16Bit = 22, kTileBit = 24, kInt8Bit = 25;

// Whether the processor has the tiles and a kind of product, and the system lets this
// process use them.
inline bool permitted(int product_bit) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> kTileBit & 1) ||
      !(d >> product_bit & 1))
    return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

#endif  // SPDF_AMX_H_
