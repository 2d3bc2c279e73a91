// Vectors of floats in registers, and what the loops of several files do with them.
//
// SPDF_BYTES is the size of a register in bytes. Nothing here is a function of the standard
// library: a linker would keep one copy of it for all instruction sets.

#ifndef SPDF_VECTORS_H_
#define SPDF_VECTORS_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace {

constexpr int kLanes = SPDF_BYTES / 4;

typedef float Vector __attribute__((vector_size(SPDF_BYTES)));
typedef int32_t Lanes __attribute__((vector_size(SPDF_BYTES)));
typedef float Unaligned __attribute__((vector_size(SPDF_BYTES), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector load_unaligned(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}
inline void store_unaligned(float* p, Vector v) {
  *reinterpret_cast<Unaligned*>(p) = v;
}

using AllLanes = std::make_index_sequence<kLanes>;

// Return the two rows that a step of a transposition makes of two others, by exchanging
// lanes.
template <int kStep, size_t... kLane>
inline Vector low(Vector a, Vector b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane - kStep : kLane)...);
}
template <int kStep, size_t... kLane>
inline Vector high(Vector a, Vector b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane : kLane + kStep)...);
}
// Takes a lane from `inside` if its index has the bit `kStep`, and from `others` if not.
template <int kStep, size_t... kLane>
inline Vector mixed(Vector others, Vector inside, std::index_sequence<kLane...>) {
  constexpr Lanes is_inside = {(kLane & kStep ? -1 : 0)...};
  return is_inside ? inside : others;
}
// Exchanges every lane with its neighbour at distance `kStep`.
template <int kStep, size_t... kLane>
inline Vector neighbours(Vector v, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(v, v, (kLane ^ kStep)...);
}

template <int kStep>
inline void transpose_steps(Vector (&rows)[kLanes]) {
  if constexpr (kStep > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & kStep)) {
        const Vector a = rows[i], b = rows[i + kStep];
        rows[i] = low<kStep>(a, b, AllLanes());
        rows[i + kStep] = high<kStep>(a, b, AllLanes());
      }
    transpose_steps<kStep / 2>(rows);
  }
}

// Transposes a square of lanes in registers.
inline void transpose(Vector (&rows)[kLanes]) { transpose_steps<kLanes / 2>(rows); }

// Adds neighbours at distance `kStep`: lanes whose index has the bit `kStep` hold sums of
// `b`, the others sums of `a`.
template <int kStep>
inline Vector fold(Vector a, Vector b) {
  return mixed<kStep>(a, b, AllLanes()) +
         neighbours<kStep>(mixed<kStep>(b, a, AllLanes()), AllLanes());
}

// Sums the lanes of each vector, and adds the sums of successive vectors to successive
// values.
class Sums {
 public:
  explicit Sums(float* values) : values_(values) {}

  // Stores a vector whose lane `i` is a part of the sum of vector `i % 4`.
  void add(Vector a, Vector b, Vector c, Vector d) {
    store(waiting_ + count_, fold<2>(fold<1>(a, b), fold<1>(c, d)));
    count_ += kLanes;
    if (count_ == kFull) flush();
  }
  void finish() {
    while (count_) add(Vector{}, Vector{}, Vector{}, Vector{});
  }

 private:
  static constexpr int kFull = kLanes / 4 * kLanes;

  void flush() {
    Vector sum = load(waiting_);
#if SPDF_BYTES == 32
    sum = fold<4>(sum, load(waiting_ + kLanes));
#elif SPDF_BYTES == 64
    sum = fold<8>(fold<4>(sum, load(waiting_ + kLanes)),
                  fold<4>(load(waiting_ + 2 * kLanes), load(waiting_ + 3 * kLanes)));
#endif
    store_unaligned(values_, load_unaligned(values_) + sum);
    values_ += kLanes;
    count_ = 0;
  }

  alignas(64) float waiting_[kFull];
  int count_ = 0;
  float* values_;
};

}  // namespace

#endif  // SPDF_VECTORS_H_
