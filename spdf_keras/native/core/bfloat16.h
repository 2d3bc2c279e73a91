// bfloat16: the upper half of a float32.

#ifndef SPDF_BFLOAT16_H_
#define SPDF_BFLOAT16_H_

#include <cstdint>
#include <cstring>

namespace spdf {

inline float from_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Rounds to nearest, and to even between two; a NaN stays one.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

}  // namespace spdf

#endif  // SPDF_BFLOAT16_H_
