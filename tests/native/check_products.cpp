// Compares the products with sums in double, for random shapes and instruction sets.
// It is compiled with sanitizers: see test_check_program.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "bfloat16.h"
#include "masked.h"

namespace {

std::mt19937 generator(1);

std::vector<float> drawn(int64_t size) {
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(generator);
  return values;
}

// Activations in the type of a layout.
class Activations {
 public:
  Activations(spdf_type type, const std::vector<float>& values) : Activations(type, values.size()) {
    for (size_t i = 0; i < values.size(); ++i) {
      wide_[i] = values[i];
      halves_[i] = spdf::to_bfloat16(values[i]);
    }
  }
  Activations(spdf_type type, size_t count) : type_(type), wide_(count), halves_(count) {}

  void* data() {
    return type_ == SPDF_BFLOAT16 ? static_cast<void*>(halves_.data()) : wide_.data();
  }
  double operator[](size_t i) const {
    return type_ == SPDF_BFLOAT16 ? spdf::from_bfloat16(halves_[i]) : wide_[i];
  }

 private:
  const spdf_type type_;
  std::vector<float> wide_;
  std::vector<uint16_t> halves_;
};

// Returns how far a value is from the right one, in units of its allowed error: that of
// one rounding to the type, and what remains of sums of float32.
double excess(spdf_type type, double value, double right) {
  const double rounding = type == SPDF_BFLOAT16 ? std::ldexp(std::fabs(right), -8) : 0;
  return std::fabs(value - right) / (rounding + 1e-5);
}

// The largest excess of the product and both gradients, for one random shape.
double check(spdf_type type, int64_t tokens, int64_t columns, int64_t rows, float density,
             int64_t threads) {
  std::vector<uint8_t> mask(columns * rows);
  for (uint8_t& kept : mask) kept = std::bernoulli_distribution(density)(generator);
  const auto drawn_weight = drawn(columns * rows), bias = drawn(rows);
  Activations x(type, drawn(tokens * columns)), dy(type, drawn(tokens * rows)),
      y(type, tokens * rows), dx(type, tokens * columns);
  const Activations weight(type, drawn_weight);
  spdf_mask* index = spdf_mask_create(mask.data(), columns, rows, nullptr, nullptr);
  std::vector<float> kept(spdf_mask_kept(index)), kept_gradient(kept.size()),
      gradient(columns * rows);
  spdf_keep(index, drawn_weight.data(), kept.data(), nullptr, nullptr);
  spdf_layout* layout = spdf_lay_out(index, kept.data(), type,
                                     SPDF_PRODUCT | SPDF_GRADIENTS, nullptr, nullptr);
  spdf_layout_product(layout, x.data(), bias.data(), tokens, y.data(), nullptr, nullptr,
                      threads);
  spdf_layout_gradients(layout, x.data(), dy.data(), tokens, dx.data(),
                        kept_gradient.data(), nullptr, nullptr, threads);
  spdf_spread(index, kept_gradient.data(), gradient.data(), nullptr, nullptr);
  spdf_layout_free(layout);
  spdf_mask_free(index);
  std::vector<double> right_y(tokens * rows), right_dx(tokens * columns),
      right(gradient.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < rows; ++j) {
      right_y[t * rows + j] += bias[j];
      for (int64_t k = 0; k < columns; ++k)
        if (mask[k * rows + j]) {
          const double w = weight[k * rows + j], slope = dy[t * rows + j];
          right_y[t * rows + j] += x[t * columns + k] * w;
          right_dx[t * columns + k] += slope * w;
          right[k * rows + j] += x[t * columns + k] * slope;
        }
    }
  double worst = 0;
  for (size_t i = 0; i < right_y.size(); ++i)
    worst = std::max(worst, excess(type, y[i], right_y[i]));
  for (size_t i = 0; i < right_dx.size(); ++i)
    worst = std::max(worst, excess(type, dx[i], right_dx[i]));
  // The gradient of kept values is float32 in any case.
  for (size_t i = 0; i < right.size(); ++i)
    worst = std::max(worst, excess(SPDF_FLOAT32, gradient[i], right[i]));
  return worst;
}

}  // namespace

int main() {
  const uint8_t one = 1;
  const auto refused = [](const uint8_t* mask, int64_t in, int64_t out) {
    return !spdf_mask_create(mask, in, out, nullptr, nullptr);
  };
  if (!refused(&one, 0, 1) || !refused(&one, 1, 0) || !refused(nullptr, 1, 1) ||
      !refused(&one, INT32_MAX, 2))
    return 2;
  double worst = 0;
  for (const char* name : {"portable", "avx2", "avx512", "bf16", "amx"}) {
    const char* used = spdf_instruction_set(name);
    for (const spdf_type type : {SPDF_FLOAT32, SPDF_BFLOAT16}) {
      double here = 0;
      for (int i = 0; i < 60; ++i) {
        const int64_t tokens = i % 10 ? 1 + generator() % 200 : 1;
        const int64_t columns = 1 + generator() % 230, rows = 1 + generator() % 140;
        here = std::max(here,
                        check(type, tokens, columns, rows, i % 5 * 0.25f, 1 + i % 4));
      }
      std::printf("%s, %s: worst %g of the allowed error\n", used,
                  type == SPDF_FLOAT32 ? "float32" : "bfloat16", here);
      worst = std::max(worst, here);
    }
  }
  return worst < 1 ? 0 : 1;
}
