// Compares products in pairs of bfloat16 with sums in double, for random shapes.
// It is compiled with sanitizers: see test_check_program.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "bfloat16.h"
#include "layout.h"
#include "pairs.h"

namespace {

std::mt19937 generator(1);

std::vector<float> drawn(int64_t size) {
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(generator);
  return values;
}

std::vector<uint16_t> rounded(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (float value : values) halves.push_back(spdf::to_bfloat16(value));
  return halves;
}

// Runs the last part first, as threads may.
void backwards(void*, int64_t count, void (*body)(void*, int64_t), void* argument) {
  while (count > 0) body(argument, --count);
}

// Returns how far a value is from the right one, in units of its allowed error: that of
// one rounding to `bits` bits, and what remains of sums of float32.
double excess(double value, double right, int bits) {
  return std::fabs(value - right) / (std::ldexp(std::fabs(right), -bits) + 1e-5);
}

struct Case {
  int64_t tokens, in, out;
  float density;
  int64_t threads;
};

// Returns a mask with an empty and a full row and column, where there are so many.
std::vector<uint8_t> drawn_mask(const Case& c) {
  std::vector<uint8_t> mask(c.in * c.out);
  for (uint8_t& kept : mask) kept = std::bernoulli_distribution(c.density)(generator);
  if (c.in > 4 && c.out > 4) {
    for (int64_t j = 0; j < c.out; ++j) mask[j] = 0, mask[c.out + j] = 1;
    for (int64_t k = 0; k < c.in; ++k) mask[k * c.out] = 0, mask[k * c.out + 1] = 1;
  }
  return mask;
}

// Returns the largest excess of the product and both gradients, for one random kernel; it
// is infinite if the number of threads changes a result.
double check(const Case& c) {
  const int64_t tokens = c.tokens, in = c.in, out = c.out;
  const std::vector<uint8_t> mask = drawn_mask(c);
  const auto weight = drawn(in * out), bias = drawn(out);
  const auto x = rounded(drawn(tokens * in)), dy = rounded(drawn(tokens * out));
  spdf_mask* made = spdf_mask_create(mask.data(), in, out, nullptr, nullptr);
  std::vector<float> kept(spdf_mask_kept(made)), gradient(kept.size()), spread(in * out);
  spdf_keep(made, weight.data(), kept.data(), nullptr, nullptr);
  std::vector<uint16_t> y(tokens * out), dx(tokens * in), other_y(y), other_dx(dx);
  std::vector<float> other(gradient);
  {
    const auto layout = spdf::lay_out_pairs(
        *made, kept.data(), SPDF_PRODUCT | SPDF_GRADIENTS, nullptr, nullptr);
    layout->product(x.data(), bias.data(), tokens, y.data(), nullptr, nullptr, 1);
    layout->gradients(x.data(), dy.data(), tokens, dx.data(), gradient.data(), nullptr,
                      nullptr, 1);
    layout->product(x.data(), bias.data(), tokens, other_y.data(), backwards, nullptr,
                    c.threads);
    layout->gradients(x.data(), dy.data(), tokens, other_dx.data(), other.data(),
                      backwards, nullptr, c.threads);
  }
  spdf_spread(made, gradient.data(), spread.data(), nullptr, nullptr);
  spdf_mask_free(made);
  if (y != other_y || dx != other_dx || gradient != other) return INFINITY;
  std::vector<double> right_y(y.size()), right_dx(dx.size()), right(spread.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < out; ++j) {
      right_y[t * out + j] += bias[j];
      const double slope = spdf::from_bfloat16(dy[t * out + j]);
      for (int64_t k = 0; k < in; ++k)
        if (mask[k * out + j]) {
          const double w = spdf::from_bfloat16(spdf::to_bfloat16(weight[k * out + j]));
          const double input = spdf::from_bfloat16(x[t * in + k]);
          right_y[t * out + j] += input * w;
          right_dx[t * in + k] += slope * w;
          right[k * out + j] += input * slope;
        }
    }
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i)
    worst = std::max(worst, excess(spdf::from_bfloat16(y[i]), right_y[i], 8));
  for (size_t i = 0; i < dx.size(); ++i)
    worst = std::max(worst, excess(spdf::from_bfloat16(dx[i]), right_dx[i], 8));
  for (size_t i = 0; i < right.size(); ++i)
    worst = std::max(worst, excess(spread[i], right[i], 20));
  return worst;
}

}  // namespace

int main() {
  if (!spdf::paired_loops()) {
    std::printf("bf16: not on this processor\n");
    return 0;
  }
  double worst = 0;
  for (int i = 0; i < 80; ++i) {
    const int64_t most = i % 4 ? 300 : i % 8 ? 33 : 17;
    const int64_t in = 1 + generator() % 410, out = 1 + generator() % 290;
    worst = std::max(worst, check({1 + static_cast<int64_t>(generator() % most), in, out,
                                   i % 5 * 0.25f, 2 + i % 5}));
  }
  // This is more than one batch of tiles.
  worst = std::max(worst, check({2200, 40, 37, 0.3f, 3}));
  std::printf("bf16: worst %g\n", worst);
  return worst < 1 ? 0 : 1;
}
