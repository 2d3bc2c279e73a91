// Compares the products of packed weights with sums in double, for random shapes, codes
// and types, and packs weights that contradict themselves. It is compiled with sanitizers:
// see test_check_program.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "packed.h"

namespace {

std::mt19937 generator(2);

float drawn() { return std::uniform_real_distribution<float>(-0.5f, 0.5f)(generator); }

// A weight of multiples of 1/8, which float16 holds exactly, and int8 with scale 1/8 too.
struct Weight {
  int64_t rows, columns;
  bool by_column;
  std::vector<float> dense, row_scales;
  std::vector<uint8_t> values, bits;
  std::vector<int32_t> segments, value_columns;
  spdf_source source{};

  int64_t place(int64_t row, int64_t column) const {
    return by_column ? column * rows + row : row * columns + column;
  }

  void add(spdf_type type, float value) {
    const auto eighths = static_cast<int8_t>(value * 8);
    uint16_t half = 0;
    if (value != 0) {
      const int exponent = std::ilogb(value);
      half = static_cast<uint16_t>(
          (value < 0) << 15 | (exponent + 15) << 10 |
          static_cast<int>((std::ldexp(std::fabs(value), -exponent) - 1) * 1024));
    }
    const void* from = type == SPDF_FLOAT32   ? static_cast<const void*>(&value)
                       : type == SPDF_FLOAT16 ? static_cast<const void*>(&half)
                                              : &eighths;
    const auto* bytes = static_cast<const uint8_t*>(from);
    values.insert(values.end(), bytes, bytes + (type == 0 ? 4 : type == 1 ? 2 : 1));
    ++source.value_count;
  }

  Weight(int64_t rows, int64_t columns, double density, spdf_code code, spdf_type type)
      : rows(rows),
        columns(columns),
        by_column(code != SPDF_CSR && generator() % 2),
        dense(rows * columns),
        bits((rows * columns + 7) / 8) {
    for (float& w : dense)
      if (std::bernoulli_distribution(density)(generator))
        w = static_cast<float>(static_cast<int>(generator() % 15) - 7) / 8;
    const int64_t lines = by_column ? columns : rows, length = by_column ? rows : columns;
    segments.push_back(0);
    for (int64_t line = 0; line < lines; ++line) {
      for (int64_t i = 0; i < length; ++i) {
        const int64_t at = line * length + i;
        const bool kept = dense[at] != 0;
        if (kept) bits[at / 8] |= 128 >> at % 8;
        if (kept) value_columns.push_back(static_cast<int32_t>(i));
        if (kept || code == SPDF_DENSE) add(type, dense[at]);
      }
      segments.push_back(static_cast<int32_t>(value_columns.size()));
    }
    if (type == SPDF_INT8) row_scales.assign(generator() % 2 ? rows : 1, 0.125f);
    source.rows = rows, source.columns = columns, source.by_column = by_column;
    source.code = code, source.type = type, source.values = values.data();
    source.scales = row_scales.data();
    source.scale_count = static_cast<int64_t>(row_scales.size());
    source.bits = bits.data(), source.bit_bytes = static_cast<int64_t>(bits.size());
    source.segments = segments.data(), source.value_columns = value_columns.data();
  }
};

// Threads that take turns: each part runs on its own, one after the other.
void in_turn(void*, int64_t count, void (*body)(void*, int64_t), void* argument) {
  for (int64_t i = count - 1; i >= 0; --i) body(argument, i);
}

// Returns the error of a random weight, as a fraction of what is allowed.
double check(int64_t tokens, spdf_code code, spdf_type from, spdf_type to, int exact) {
  const int64_t rows = 1 + generator() % 150, columns = 1 + generator() % 300;
  const Weight w(rows, columns, static_cast<double>(generator() % 5) * 0.25, code, from);
  const char* reason = nullptr;
  spdf_packed* packed = spdf_pack(&w.source, to, exact, in_turn, nullptr, &reason);
  if (!packed) return std::printf("not packed: %s\n", reason), 1e9;
  std::vector<float> x(tokens * columns), bias(rows), y(tokens * rows, 1e9f);
  for (float& v : x) v = drawn();
  for (float& v : bias) v = drawn();
  spdf_packed_product(packed, x.data(), bias.data(), tokens, y.data(), in_turn, nullptr,
                      1 + generator() % 4);
  spdf_packed_free(packed);
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) {
      double sum = bias[r], size = 0, largest = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const double value = w.dense[w.place(r, c)];
        sum += value * x[t * columns + c], size += std::fabs(value);
        largest = std::max(largest, std::fabs(value));
      }
      double allowed = 1e-5;
      // Half a step of each weight, and of each input, whose range is at most 1.
      if (to == SPDF_INT8 && from != SPDF_INT8)
        allowed += largest / 254 * 0.5 * static_cast<double>(columns);
      if (to == SPDF_INT8 && !exact) allowed += size / 255 / 2 * 1.02 + largest / 100;
      worst = std::max(worst, std::fabs(sum - y[t * rows + r]) / allowed);
    }
  return worst;
}

// Whether a source is refused with a sentence after a change.
template <class Change>
bool refused(spdf_code code, const Change& change) {
  Weight w(9, 21, 0.5, code, SPDF_FLOAT32);
  change(w);
  const char* reason = nullptr;
  spdf_packed* packed = spdf_pack(&w.source, SPDF_FLOAT32, 1, nullptr, nullptr, &reason);
  spdf_packed_free(packed);
  if (packed || !reason || !std::strlen(reason) || spdf_kept(&w.source) != -1)
    return std::printf("a contradiction was packed\n"), false;
  return true;
}

bool contradictions_are_refused() {
  const spdf_code csr = SPDF_CSR, bits = SPDF_BITS, dense = SPDF_DENSE;
  return refused(dense, [](Weight& w) { w.source.rows = 0; }) &&
         refused(dense, [](Weight& w) { w.source.rows = int64_t{1} << 40; }) &&
         refused(dense, [](Weight& w) { w.source.columns = -1; }) &&
         refused(dense, [](Weight& w) { --w.source.value_count; }) &&
         refused(dense, [](Weight& w) { w.source.values = nullptr; }) &&
         refused(dense, [](Weight& w) { w.source.type = static_cast<spdf_type>(7); }) &&
         refused(dense, [](Weight& w) { w.source.code = static_cast<spdf_code>(7); }) &&
         refused(dense, [](Weight& w) { w.source.scale_count = 4; }) &&
         refused(bits, [](Weight& w) { w.bits[3] ^= 1; }) &&
         refused(bits, [](Weight& w) { w.bits.back() ^= 1; }) &&
         refused(bits, [](Weight& w) { --w.source.bit_bytes; }) &&
         refused(csr, [](Weight& w) { w.segments[3] = 1 << 20; }) &&
         refused(csr, [](Weight& w) { w.segments[3] = -5; }) &&
         refused(csr, [](Weight& w) { w.segments[9] -= 1; }) &&
         refused(csr, [](Weight& w) { w.value_columns[5] = 21; }) &&
         refused(csr, [](Weight& w) { w.value_columns[5] = -1; }) &&
         refused(csr, [](Weight& w) { w.value_columns[1] = w.value_columns[0]; }) &&
         refused(csr, [](Weight& w) { w.source.by_column = 1; });
}

}  // namespace

int main() {
  if (!contradictions_are_refused()) return 2;
  double worst = 0;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const char* used = spdf_instruction_set(name);
    for (int i = 0; i < 216; ++i) {
      const int64_t tokens = i % 4 == 0 ? 1 : i % 4 == 1 ? 2 + generator() % 7
                                                         : 8 + generator() % 70;
      const double error =
          check(tokens, static_cast<spdf_code>(i % 3), static_cast<spdf_type>(i / 3 % 3),
                static_cast<spdf_type>(i / 9 % 3), i / 27 % 2);
      if (error > 1) std::printf("%s, case %d: %g of what is allowed\n", used, i, error);
      worst = std::max(worst, error);
    }
    std::printf("%s: worst so far %g of what is allowed\n", used, worst);
  }
  std::printf("integer products: %s\n", spdf_rounds_inputs() ? "yes" : "no");
  return worst < 1 ? 0 : 1;
}
