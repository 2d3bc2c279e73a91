// Compares what a step computes beside sparse products with results in double: GELU, sums
// of tokens, dense products of few tokens, best numbers and the update of kept weights.
// It is compiled with sanitizers: see test_check_program.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "adamw.h"
#include "dense.h"
#include "elementwise.h"

namespace {

std::mt19937 generator(1);

std::vector<float> drawn(int64_t size, float range = 1) {
  std::uniform_real_distribution<float> uniform(-range, range);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(generator);
  return values;
}

double gelu(double x) {
  return x / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
}

double check_elementwise(int64_t tokens, int64_t columns) {
  const int64_t count = tokens * columns;
  const auto x = drawn(count, 6), dy = drawn(count);
  std::vector<float> y(count), dx(count), sums(columns);
  spdf_gelu(SPDF_FLOAT32, x.data(), count, y.data(), nullptr, nullptr);
  spdf_gelu_gradient(SPDF_FLOAT32, x.data(), dy.data(), count, dx.data(), nullptr, nullptr);
  spdf_token_sums(SPDF_FLOAT32, dy.data(), tokens, columns, sums.data(), nullptr, nullptr);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double step = 1e-5;
    const double slope = (gelu(x[i] + step) - gelu(x[i] - step)) / (2 * step);
    worst = std::max({worst, std::fabs(y[i] - gelu(x[i])), std::fabs(dx[i] - dy[i] * slope)});
  }
  for (int64_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) sum += dy[t * columns + c];
    worst = std::max(worst, std::fabs(sums[c] - sum));
  }
  return worst;
}

double check_dense(int64_t tokens, int64_t in, int64_t out, bool transposed) {
  const auto weight = drawn(in * out), x = drawn(tokens * in), bias = drawn(out);
  const int64_t count = (out + SPDF_DENSE_TILE - 1) / SPDF_DENSE_TILE;
  std::vector<float> tiles(count * in * SPDF_DENSE_TILE), y(tokens * out);
  spdf_dense_tiles(weight.data(), transposed, in, out, tiles.data(), nullptr, nullptr);
  spdf_dense_product(tiles.data(), x.data(), bias.data(), tokens, in, out, y.data(),
                     nullptr, nullptr, 3);
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t n = 0; n < out; ++n) {
      double sum = bias[n];
      for (int64_t k = 0; k < in; ++k)
        sum += double(x[t * in + k]) * weight[transposed ? n * in + k : k * out + n];
      worst = std::max(worst, std::fabs(sum - y[t * out + n]));
    }
  const int64_t best = std::min<int64_t>(3, out);
  std::vector<float> values(best);
  std::vector<int32_t> indices(best);
  const float norm = spdf_best(y.data(), out, best, values.data(), indices.data());
  double sum = 0;
  for (int64_t n = 0; n < out; ++n) sum += std::exp(double(y[n]));
  worst = std::max(worst, std::fabs(norm - std::log(sum)));
  if (values[0] != *std::max_element(y.begin(), y.begin() + out)) worst = 1;
  return worst;
}

double check_update(int64_t count, float density, bool counted) {
  std::vector<uint8_t> mask(count);
  int64_t kept = 0;
  for (uint8_t& entry : mask) kept += entry = std::bernoulli_distribution(density)(generator);
  auto weights = drawn(count), m = drawn(kept), v = drawn(kept);
  for (float& value : v) value = std::fabs(value);
  const auto before = weights, m_before = m, v_before = v, gradient = drawn(kept);
  const spdf_move move{0.5f, 0.999f, 0.9f, 0.99f, 0.01f, 1e-6f};
  std::vector<uint16_t> cohort(kept);
  for (uint16_t& entry : cohort) entry = generator() % 3;
  const float alphas[] = {0.01f, 0.03f, 0.002f}, epsilons[] = {1e-6f, 1e-5f, 1e-4f};
  const spdf_cohorts cohorts{cohort.data(), alphas, epsilons, 3};
  const spdf_cohorts* by = counted ? &cohorts : nullptr;
  if (kept && spdf_largest_cohort(&cohorts, kept) > 2) return 1;
  if (spdf_adamw(&move, by, mask.data(), count, kept + 1, gradient.data(), weights.data(),
                 m.data(), v.data(), nullptr, nullptr) != kept ||
      weights != before)
    return 1;
  spdf_adamw(&move, by, mask.data(), count, kept, gradient.data(), weights.data(), m.data(),
             v.data(), nullptr, nullptr);
  double worst = 0;
  for (int64_t i = 0, k = 0; i < count; ++i) {
    double right = before[i];
    if (mask[i]) {
      const double g = 0.5 * gradient[k];
      const double new_m = m_before[k] + (g - m_before[k]) * (1 - 0.9);
      const double new_v = v_before[k] + (g * g - v_before[k]) * (1 - 0.99);
      const int own = counted ? cohort[k] : 0;
      right = before[i] * 0.999 - new_m * alphas[own] / (std::sqrt(new_v) + epsilons[own]);
      worst = std::max({worst, std::fabs(m[k] - new_m), std::fabs(v[k] - new_v)});
      ++k;
    }
    worst = std::max(worst, std::fabs(right - weights[i]));
  }
  return worst;
}

}  // namespace

int main() {
  double worst = 0;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const char* used = spdf_instruction_set(name);
    for (int i = 0; i < 40; ++i) {
      const int64_t tokens = 1 + generator() % 40, size = 1 + generator() % 150;
      worst = std::max({worst, check_elementwise(tokens, size),
                        check_dense(tokens, size, 1 + generator() % 90, i % 2),
                        check_update(size * tokens, i % 5 * 0.25f, i % 2)});
    }
    std::printf("%s: worst so far %g\n", used, worst);
  }
  return worst < 2e-5 ? 0 : 1;
}
