// Layouts in pairs: threads compute one tile of tokens after another.

#include "pairs.h"

#include <algorithm>

#include "layout.h"
#include "parallel.h"
#include "scratch.h"

namespace {

using spdf::kCopy;
using spdf::kGradientTiles;
using spdf::kWindow;
using spdf::paired_loops;
using spdf::PairedLoops;
using spdf::PairedStructure;
using spdf::run;
using spdf::Scratch;

// Number of tiles that are transposed at a time for the gradients.
constexpr int64_t kBatch = 32;

thread_local Scratch scratch;
// Memory of the calling thread, which all threads of a call use.
thread_local Scratch shared;

// Returns the floats that hold inputs, up to a multiple of 64 bytes.
int64_t floats_of(int64_t inputs) { return (inputs + 31) / 32 * 16; }

uint16_t* as_inputs(float* memory) { return reinterpret_cast<uint16_t*>(memory); }

// Floats of a window's tile, including its padding row.
int64_t window_floats(int64_t tile) { return (kWindow + 1) * tile; }

// Returns the loops with the narrowest tile that holds the tokens, or else the widest.
const PairedLoops& loops_for(int64_t tokens) {
  const PairedLoops* loops = paired_loops();
  while (loops[1].tile && tokens <= loops[1].tile) ++loops;
  return *loops;
}

// If there are few tokens, several threads share a tile, and each computes other rows.
// Returns the number of their parts.
int64_t parts_of_tile(const PairedStructure& s, int64_t threads, int64_t tiles) {
  return std::min(s.windows, std::max<int64_t>(1, threads / std::max<int64_t>(tiles, 1)));
}

// Calls `body(start, count)` for each line of a region, whose kept values are the `count`
// ones from `start` on among all kept values.
template <class Body>
void for_lines(const PairedStructure& s, int64_t region, const Body& body) {
  const int64_t window = region / s.blocks, block = region % s.blocks;
  const int64_t first = s.by_column ? block * s.block : window * kWindow;
  const int64_t lines = s.by_column ? s.block_columns(block) : s.window_rows(window);
  const int64_t bands = s.by_column ? s.windows : s.blocks;
  const uint32_t* start =
      s.line_starts.data() + first * (bands + 1) + (s.by_column ? window : block);
  for (int64_t i = 0; i < lines; ++i, start += bands + 1)
    body(start[0], static_cast<int64_t>(start[1] - start[0]));
}

// Lays out a region: rounds its kept values, and writes them in the order of its steps.
void gather(const PairedStructure& s, int64_t region, const float* kept,
            uint32_t* pairs) {
  uint16_t* rounded = as_inputs(scratch.get(floats_of(kCopy + 1)));
  uint16_t* next = rounded;
  const auto round = paired_loops()->round;
  for_lines(s, region, [&](uint32_t start, int64_t count) {
    round(kept + start, count, next);
    next += count;
  });
  *next = 0;
  const uint16_t* offset = s.offsets.data() + 4 * int64_t{s.step_starts[region]};
  for (int64_t i = 2 * int64_t{s.step_starts[region]};
       i < 2 * int64_t{s.step_starts[region + 1]}; ++i, offset += 2)
    pairs[i] = rounded[offset[0]] | uint32_t{rounded[offset[1]]} << 16;
}

// Writes the sums of a region to its kept values, or adds them.
void scatter(const PairedStructure& s, int64_t region, bool is_first, const float* sums,
             float* in_order, float* kept) {
  const uint16_t* offset = s.offsets.data() + 4 * int64_t{s.step_starts[region]};
  const int64_t count = 4 * int64_t{s.step_starts[region + 1] - s.step_starts[region]};
  for (int64_t i = 0; i < count; ++i) in_order[offset[i]] = sums[i];
  const float* next = in_order;
  for_lines(s, region, [&](uint32_t start, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      kept[start + i] = is_first ? next[i] : kept[start + i] + next[i];
    next += count;
  });
}

// Computes windows [first, last) of the product of one tile, and writes them as tokens.
// `room` has room for a window's tile.
void multiply(const PairedStructure& s, const PairedLoops& loops, int64_t first,
              int64_t last, const uint32_t* pairs, const uint16_t* tile, int64_t count,
              const float* bias, float* room, uint16_t* y) {
  for (int64_t w = first; w < last; ++w) {
    const int64_t row = w * kWindow;
    for (int64_t b = 0; b < s.blocks; ++b) {
      const int64_t region = w * s.blocks + b;
      loops.product(s.region(region), pairs + 2 * int64_t{s.step_starts[region]}, b == 0,
                    tile + b * s.block * loops.width, room);
    }
    loops.from_tile(room, s.window_rows(w), s.rows, count, bias ? bias + row : nullptr,
                    y + row);
  }
}

class Pairs final : public spdf_layout {
 public:
  Pairs(const spdf_mask& mask, const float* kept, int uses, spdf_parallel parallel,
        void* pool)
      : mask_(mask), forward_(mask.paired_forward(parallel, pool)) {
    if (uses & SPDF_PRODUCT) pairs_ = gathered(forward_, kept, parallel, pool);
    if (!(uses & SPDF_GRADIENTS)) return;
    backward_ = &mask.paired_backward(parallel, pool);
    backward_pairs_ = gathered(*backward_, kept, parallel, pool);
  }

  void product(const void* x, const float* bias, int64_t tokens, void* y,
               spdf_parallel parallel, void* pool, int64_t threads) const override {
    const PairedStructure& s = forward_;
    const PairedLoops& widest = loops_for(tokens);
    const int64_t tile = widest.tile, tiles = (tokens + tile - 1) / tile;
    const int64_t parts = parts_of_tile(s, threads, tiles);
    run(parallel, pool, tiles * parts, [&](int64_t i) {
      const int64_t t = i / parts, part = i % parts;
      const int64_t count = std::min(tile, tokens - t * tile);
      const PairedLoops& loops = loops_for(count);
      float* room =
          scratch.get(window_floats(tile) + floats_of(s.columns * widest.width));
      uint16_t* in = as_inputs(room + window_floats(tile));
      loops.to_tile(static_cast<const uint16_t*>(x) + t * tile * s.columns, s.columns,
                    s.columns, count, in);
      multiply(s, loops, s.windows * part / parts, s.windows * (part + 1) / parts,
               pairs_.get(), in, count, bias, room,
               static_cast<uint16_t*>(y) + t * tile * s.rows);
    });
  }

  void gradients(const void* x, const void* dy, int64_t tokens, void* dx, float* gradient,
                 spdf_parallel parallel, void* pool, int64_t threads) const override {
    const PairedStructure &f = forward_, &b = *backward_;
    if (tokens == 0) std::fill_n(gradient, mask_.kept(), 0.0f);
    const PairedLoops& loops = loops_for(tokens);
    const int64_t tile = loops.tile, tiles = (tokens + tile - 1) / tile;
    const int64_t batch = std::min(kBatch, tiles);
    const int64_t columns = f.columns * loops.width, rows = (f.rows + 1) * loops.width;
    const int64_t parts = std::max<int64_t>(1, std::min(threads, f.regions()));
    // The larger of both sides stays in the second-level cache, window by window or block
    // by block, while the smaller one streams by.
    const bool by_window = f.columns <= f.rows;
    uint16_t* in = as_inputs(shared.get(floats_of(batch * (columns + rows))));
    uint16_t* slope = in + batch * columns;
    for (int64_t start = 0; start < tiles; start += batch) {
      const int64_t here = std::min(batch, tiles - start);
      run(parallel, pool, here, [&](int64_t i) {
        const int64_t token = (start + i) * tile, count = std::min(tile, tokens - token);
        uint16_t* dy_tile = slope + i * rows;
        loops.to_tile(static_cast<const uint16_t*>(x) + token * f.columns, f.columns,
                      f.columns, count, in + i * columns);
        loops.to_tile(static_cast<const uint16_t*>(dy) + token * f.rows, f.rows, f.rows,
                      count, dy_tile);
        // The sums of the padding row go to fillers.
        std::fill_n(dy_tile + f.rows * loops.width, loops.width, uint16_t{0});
      });
      const int64_t shares = parts_of_tile(b, threads, here);
      run(parallel, pool, here * shares, [&](int64_t i) {
        const int64_t t = i / shares, share = i % shares;
        const int64_t token = (start + t) * tile, count = std::min(tile, tokens - token);
        multiply(b, loops, b.windows * share / shares, b.windows * (share + 1) / shares,
                 backward_pairs_.get(), slope + t * rows, count, nullptr,
                 scratch.get(window_floats(tile)),
                 static_cast<uint16_t*>(dx) + token * b.rows);
      });
      run(parallel, pool, parts, [&](int64_t part) {
        const int64_t first = f.regions() * part / parts,
                      last = f.regions() * (part + 1) / parts;
        for (int64_t n = first; n < last; ++n) {
          const int64_t window = by_window ? n / f.blocks : n % f.windows;
          const int64_t block = by_window ? n % f.blocks : n / f.windows;
          const int64_t region = window * f.blocks + block;
          const int64_t size =
              4 * int64_t{f.step_starts[region + 1] - f.step_starts[region]};
          // The loops write up to 15 floats behind the sums.
          float* sums = scratch.get(size + 16 + kCopy + 1);
          std::fill_n(sums, size, 0.0f);
          for (int64_t i = 0; i < here; i += kGradientTiles)
            loops.gradient(f.region(region), std::min(kGradientTiles, here - i),
                           in + i * columns + block * f.block * loops.width, columns,
                           slope + i * rows + window * kWindow * loops.width, rows,
                           sums);
          scatter(f, region, start == 0, sums, sums + size + 16, gradient);
        }
      });
    }
  }

 private:
  std::unique_ptr<uint32_t[]> gathered(const PairedStructure& s, const float* kept,
                                       spdf_parallel parallel, void* pool) const {
    std::unique_ptr<uint32_t[]> pairs(new uint32_t[2 * int64_t{s.step_starts.back()}]);
    run(parallel, pool, s.regions(), [&](int64_t region) {
      gather(s, region, kept, pairs.get());
    });
    return pairs;
  }

  const spdf_mask& mask_;
  const PairedStructure& forward_;
  const PairedStructure* backward_ = nullptr;
  std::unique_ptr<uint32_t[]> pairs_, backward_pairs_;
};

}  // namespace

namespace spdf {

const PairedLoops* paired_loops() {
  static const PairedLoops* const loops = bf16_loops ? bf16_loops() : nullptr;
  return loops;
}

bool pairs_pay() { return paired_loops() && bf16_is_fast(); }

OwnedLayout lay_out_pairs(const spdf_mask& mask, const float* kept, int uses,
                          spdf_parallel parallel, void* pool) {
  return std::make_unique<Pairs>(mask, kept, uses, parallel, pool);
}

}  // namespace spdf
