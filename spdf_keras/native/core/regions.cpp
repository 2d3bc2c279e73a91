// Layouts in regions: products skip zeros by the loops of float32.

#include <algorithm>
#include <cstring>
#include <memory>

#include "activations.h"
#include "bfloat16.h"
#include "layout.h"
#include "loops.h"
#include "parallel.h"
#include "scratch.h"

namespace {

using spdf::Activations;
using spdf::kCopy;
using spdf::kWindow;
using spdf::Loops;
using spdf::multiply;
using spdf::Panel;
using spdf::run;
using spdf::Scratch;
using spdf::Structure;
using spdf::window_floats;

// Number of tiles that are transposed at a time for the gradients.
constexpr int64_t kBatch = 32;

// Bytes of activations that stay in the second-level cache.
constexpr int64_t kNearBytes = 768 << 10;

thread_local Scratch scratch;
// Memory of the calling thread, which all threads of a call use.
thread_local Scratch shared;

// Calls `body(word, line, first, count, start)` for the entries of a region, up to 64 of a
// line at a time; `start` is the position of the first kept one.
template <class Body>
void for_words(const spdf_mask& mask, const Panel& p, const Body& body) {
  for (int64_t line = 0; line < p.lines; ++line)
    for (int64_t first = 0; first < p.length; first += 64) {
      const int64_t row = p.first_line + line, column = p.first + first;
      const int64_t count = std::min<int64_t>(64, p.length - first);
      uint64_t word = mask.bits.word_at(row, column);
      if (count < 64) word &= (uint64_t{1} << count) - 1;
      body(word, line * p.copy_stride + first, count, mask.start(row, column));
    }
}

// Copies the kept values of a region in the order of its structure; fillers are zero.
void gather(const spdf_mask& mask, const Structure& s, int64_t region, const float* kept,
            bool rounded, float* values) {
  float* copy = scratch.get(kCopy + 1);
  for_words(mask, Panel(s, region),
            [&](uint64_t word, int64_t at, int64_t count, uint32_t start) {
              spdf::expand(word, kept + start, count, copy + at);
            });
  copy[kCopy] = 0;
  for (uint32_t v = s.value_starts[region]; v < s.value_starts[region + 1]; ++v)
    values[v] = copy[s.offsets[v]];
  if (rounded)
    for (uint32_t v = s.value_starts[region]; v < s.value_starts[region + 1]; ++v)
      values[v] = spdf::from_bfloat16(spdf::to_bfloat16(values[v]));
}

// Writes the values of a region to the kept values of all.
void scatter(const spdf_mask& mask, const Structure& s, int64_t region, const float* values,
             float* kept) {
  float* copy = scratch.get(kCopy + 1);
  for (uint32_t v = s.value_starts[region]; v < s.value_starts[region + 1]; ++v)
    copy[s.offsets[v]] = values[v];
  for_words(mask, Panel(s, region),
            [&](uint64_t word, int64_t at, int64_t, uint32_t start) {
              spdf::compress(word, copy + at, kept + start);
            });
}

class Regions final : public spdf_layout {
 public:
  Regions(const spdf_mask& mask, const float* kept, spdf_type type, int uses,
          spdf_parallel parallel, void* pool)
      : mask_(mask), type_(type), forward_(mask.forward(parallel, pool).view) {
    if (uses & SPDF_PRODUCT) values_ = gathered(forward_, kept, parallel, pool);
    if (!(uses & SPDF_GRADIENTS)) return;
    backward_ = &mask.backward(parallel, pool).view;
    backward_values_ = gathered(*backward_, kept, parallel, pool);
  }

  void product(const void* x, const float* bias, int64_t tokens, void* y,
               spdf_parallel parallel, void* pool, int64_t threads) const override {
    spdf::product(forward_, {SPDF_FLOAT32, values_.get(), nullptr}, x, type_, bias, tokens,
                  y, parallel, pool, threads);
  }

  void gradients(const void* x, const void* dy, int64_t tokens, void* dx, float* gradient,
                 spdf_parallel parallel, void* pool, int64_t threads) const override {
    const Structure &f = forward_, &b = *backward_;
    if (tokens == 0) {
      std::fill_n(gradient, mask_.kept(), 0.0f);
      return;
    }
    // The loops for a single token have no gradient.
    const Loops& loops = spdf::loops_for(f, std::max<int64_t>(tokens, 2));
    const Activations inputs(x, type_, f.columns), slopes(dy, type_, f.rows);
    const int64_t tile = loops.tile, tiles = (tokens + tile - 1) / tile;
    const int64_t batch = std::min(kBatch, tiles);
    // This includes the padding rows of the last group, whose sums go to fillers.
    const int64_t rows = f.rows + 3;
    const int64_t parts = std::max<int64_t>(1, std::min(threads, f.regions()));
    // The smaller of both sides is read repeatedly, for as many tiles as fit the
    // second-level cache.
    const bool by_window = f.columns <= f.rows;
    const int64_t side = std::min(f.columns, f.rows) * tile * 4;
    const int64_t near = std::max<int64_t>(1, kNearBytes / side);
    float* in = shared.get(batch * (f.columns + rows) * tile + f.values() + spdf::kAlign);
    float* slope = in + batch * f.columns * tile;
    float* sums = slope + batch * rows * tile;
    for (int64_t start = 0; start < tiles; start += batch) {
      const int64_t here = std::min(batch, tiles - start);
      run(parallel, pool, here, [&](int64_t i) {
        const int64_t t = start + i, count = std::min(tile, tokens - t * tile);
        float* dy_tile = slope + i * rows * tile;
        float* room = scratch.get(window_floats(tile) +
                                  std::max(inputs.room(loops), slopes.room(loops)));
        float* wide = room + window_floats(tile);
        inputs.to_tile(loops, t * tile, count, wide, in + i * f.columns * tile);
        slopes.to_tile(loops, t * tile, count, wide, dy_tile);
        std::memset(dy_tile + f.rows * tile, 0, 3 * tile * sizeof(float));
        multiply(b, loops, 0, b.windows, {SPDF_FLOAT32, backward_values_.get(), nullptr}, dy_tile, count, nullptr,
                 room, type_, dx, t * tile);
      });
      run(parallel, pool, parts, [&](int64_t part) {
        const int64_t first = f.regions() * part / parts,
                      last = f.regions() * (part + 1) / parts;
        for (int64_t from = 0; from < here; from += near) {
          const int64_t to = std::min(here, from + near);
          for (int64_t n = first; n < last; ++n) {
            const int64_t window = by_window ? n / f.blocks : n % f.windows;
            const int64_t block = by_window ? n % f.blocks : n / f.windows;
            const int64_t region = window * f.blocks + block;
            if (start + from == 0)
              std::fill(sums + f.value_starts[region], sums + f.value_starts[region + 1],
                        0.0f);
            for (int64_t i = from; i < to; ++i)
              loops.gradient(f, region, in + i * f.columns * tile,
                             slope + (i * rows + window * kWindow) * tile, sums);
            if (start + to == tiles) scatter(mask_, f, region, sums, gradient);
          }
        }
      });
    }
  }

 private:
  std::unique_ptr<float[]> gathered(const Structure& s, const float* kept,
                                    spdf_parallel parallel, void* pool) const {
    std::unique_ptr<float[]> values(new float[s.values()]);
    run(parallel, pool, s.regions(), [&](int64_t region) {
      gather(mask_, s, region, kept, type_ == SPDF_BFLOAT16, values.get());
    });
    return values;
  }

  const spdf_mask& mask_;
  const spdf_type type_;
  const Structure& forward_;
  const Structure* backward_ = nullptr;
  std::unique_ptr<float[]> values_, backward_values_;
};

}  // namespace

namespace spdf {

OwnedLayout lay_out_regions(const spdf_mask& mask, const float* kept, spdf_type type,
                            int uses, spdf_parallel parallel, void* pool) {
  return std::make_unique<Regions>(mask, kept, type, uses, parallel, pool);
}

}  // namespace spdf
