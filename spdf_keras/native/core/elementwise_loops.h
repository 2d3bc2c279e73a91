// The loops of elementwise.h, for one instruction set; see vectors.h.

#ifndef SPDF_ELEMENTWISE_LOOPS_H_
#define SPDF_ELEMENTWISE_LOOPS_H_

#include <cstdint>
#include <cstring>

#include "packed.h"
#include "vectors.h"

namespace {

typedef uint32_t Bits __attribute__((vector_size(SPDF_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(SPDF_BYTES / 2)));

// Read and write up to a vector of numbers of a type.
inline Vector read(const float* p, int64_t count) {
  if (count >= kLanes) return load_unaligned(p);
  Vector v = {};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}
inline Vector read(const uint16_t* p, int64_t count) {
  Halves halves = {};
  std::memcpy(&halves, p, count >= kLanes ? sizeof halves : 2 * count);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  Vector v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
inline void write(Vector v, int64_t count, float* p) {
  if (count >= kLanes) store_unaligned(p, v);
  else std::memcpy(p, &v, count * sizeof(float));
}
inline void write(Vector v, int64_t count, uint16_t* p) {
  Bits bits;
  std::memcpy(&bits, &v, sizeof bits);
  const Bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const Halves halves = __builtin_convertvector(v == v ? rounded : bits >> 16 | 0x40, Halves);
  std::memcpy(p, &halves, count >= kLanes ? sizeof halves : 2 * count);
}

// Returns e to the power of z, for z between -87 and 87.
inline Vector exponential(Vector z) {
  // Adding and subtracting this rounds to an integer.
  const Vector integers = Vector{} + 12582912.0f;
  const Vector n = (z * 1.44269504f + integers) - integers;
  const Vector r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Lanes power = (__builtin_convertvector(n, Lanes) + 127) << 23;
  Vector scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// (1 + tanh(u)) / 2 is the sigmoid of 2u, and 2u = kRoot * (x + kCube * x^3).
constexpr float kRoot = 1.5957691216f, kCube = 0.044715f;

inline Vector sigmoid(Vector z) {
  const Vector least = Vector{} - 87.0f, most = Vector{} + 87.0f;
  Vector inside = z < least ? least : z;
  inside = inside > most ? most : inside;
  return 1.0f / (1.0f + exponential(-inside));
}

template <class Number>
void gelu_of(const Number* x, int64_t count, Number* y) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vector v = read(x + i, count - i);
    write(v * sigmoid(v * (kRoot + kRoot * kCube * v * v)), count - i, y + i);
  }
}

template <class Number>
void gelu_gradient_of(const Number* x, const Number* dy, int64_t count, Number* dx) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vector v = read(x + i, count - i), square = v * v;
    const Vector s = sigmoid(v * (kRoot + kRoot * kCube * square));
    const Vector slope = kRoot + 3 * kRoot * kCube * square;
    const Vector derivative = s + v * s * (1.0f - s) * slope;
    write(read(dy + i, count - i) * derivative, count - i, dx + i);
  }
}

template <class Number>
void token_sums_of(const Number* dy, int64_t tokens, int64_t stride, int64_t columns,
                   float* sums) {
  constexpr int64_t kVectors = 4;
  for (int64_t c = 0; c < columns; c += kVectors * kLanes) {
    Vector sum[kVectors] = {};
    const int64_t left = columns - c;
    if (left >= kVectors * kLanes) {
      for (int64_t t = 0; t < tokens; ++t)
#pragma GCC unroll 4
        for (int64_t v = 0; v < kVectors; ++v)
          sum[v] += read(dy + t * stride + c + v * kLanes, kLanes);
    } else {
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t v = 0; v * kLanes < left; ++v)
          sum[v] += read(dy + t * stride + c + v * kLanes, left - v * kLanes);
    }
    for (int64_t v = 0; v < kVectors && v * kLanes < left; ++v)
      write(sum[v], left - v * kLanes, sums + c + v * kLanes);
  }
}

// See `Loops`.
void gelu(spdf_type type, const void* x, int64_t count, void* y) {
  if (type == SPDF_FLOAT32)
    gelu_of(static_cast<const float*>(x), count, static_cast<float*>(y));
  else
    gelu_of(static_cast<const uint16_t*>(x), count, static_cast<uint16_t*>(y));
}

void gelu_gradient(spdf_type type, const void* x, const void* dy, int64_t count, void* dx) {
  if (type == SPDF_FLOAT32)
    gelu_gradient_of(static_cast<const float*>(x), static_cast<const float*>(dy), count,
                     static_cast<float*>(dx));
  else
    gelu_gradient_of(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(dy),
                     count, static_cast<uint16_t*>(dx));
}

void token_sums(spdf_type type, const void* dy, int64_t tokens, int64_t stride,
                int64_t columns, float* sums) {
  if (type == SPDF_FLOAT32)
    token_sums_of(static_cast<const float*>(dy), tokens, stride, columns, sums);
  else
    token_sums_of(static_cast<const uint16_t*>(dy), tokens, stride, columns, sums);
}

}  // namespace

#endif  // SPDF_ELEMENTWISE_LOOPS_H_
