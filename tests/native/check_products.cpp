// Compares the products with sums in double, for random shapes and instruction sets.
// It is compiled with sanitizers: see test_check_program.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "masked.h"

namespace {

std::mt19937 generator(1);

std::vector<float> drawn(int64_t size) {
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(generator);
  return values;
}

// The largest error of both products, for one random shape.
double check(int64_t tokens, int64_t columns, int64_t rows, float density,
             int64_t threads) {
  std::vector<uint8_t> mask(columns * rows);
  for (uint8_t& kept : mask) kept = std::bernoulli_distribution(density)(generator);
  const auto weight = drawn(columns * rows), x = drawn(tokens * columns),
             dy = drawn(tokens * rows), bias = drawn(rows);
  spdf_mask* index = spdf_mask_create(mask.data(), columns, rows, nullptr, nullptr);
  std::vector<float> kept(spdf_mask_kept(index)), y(tokens * rows), dx(tokens * columns),
      kept_gradient(kept.size()), gradient(columns * rows);
  spdf_keep(index, weight.data(), kept.data(), nullptr, nullptr);
  spdf_layout* layout = spdf_lay_out(index, kept.data(), SPDF_FLOAT32,
                                     SPDF_PRODUCT | SPDF_GRADIENTS, nullptr, nullptr);
  spdf_layout_product(layout, x.data(), bias.data(), tokens, y.data(), nullptr, nullptr,
                      threads);
  spdf_layout_gradients(layout, x.data(), dy.data(), tokens, dx.data(),
                        kept_gradient.data(), nullptr, nullptr, threads);
  spdf_spread(index, kept_gradient.data(), gradient.data(), nullptr, nullptr);
  spdf_layout_free(layout);
  spdf_mask_free(index);
  std::vector<double> right_y(y.size()), right_dx(dx.size()), right(gradient.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < rows; ++j) {
      right_y[t * rows + j] = bias[j];
      for (int64_t k = 0; k < columns; ++k)
        if (mask[k * rows + j]) {
          const double w = weight[k * rows + j], slope = dy[t * rows + j];
          right_y[t * rows + j] += x[t * columns + k] * w;
          right_dx[t * columns + k] += slope * w;
          right[k * rows + j] += x[t * columns + k] * slope;
        }
    }
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::fabs(right_y[i] - y[i]));
  for (size_t i = 0; i < dx.size(); ++i)
    worst = std::max(worst, std::fabs(right_dx[i] - dx[i]));
  for (size_t i = 0; i < right.size(); ++i)
    worst = std::max(worst, std::fabs(right[i] - gradient[i]));
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
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const char* used = spdf_instruction_set(name);
    for (int i = 0; i < 60; ++i) {
      const int64_t tokens = i % 10 ? 1 + generator() % 200 : 1;
      const int64_t columns = 1 + generator() % 230, rows = 1 + generator() % 140;
      worst = std::max(worst, check(tokens, columns, rows, i % 5 * 0.25f, 1 + i % 4));
    }
    std::printf("%s: worst so far %g\n", used, worst);
  }
  return worst < 1e-5 ? 0 : 1;
}
