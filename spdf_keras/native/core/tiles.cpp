// Layouts in tiles: threads, memory and order of the work.

#include "tiles.h"

#include <algorithm>
#include <memory>

#include "layout.h"
#include "parallel.h"
#include "scratch.h"

namespace {

using spdf::kFewTokens;
using spdf::kTileStep;
using spdf::run;
using spdf::TileLoops;

// Tokens whose gradients are added up at a time.
constexpr int64_t kBatch = 1024;
// Bytes that stay in the second-level cache: of expanded entries, or of ordered inputs.
constexpr int64_t kNearBytes = 768 << 10;
// Values are rounded in parts of this many.
constexpr int64_t kPart = 1 << 16;

thread_local spdf::Scratch scratch;
// Memory of the calling thread, which all threads of a call use.
thread_local spdf::Scratch shared;

int64_t up(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

class Tiles final : public spdf_layout {
 public:
  Tiles(const spdf_mask& mask, const float* kept, const TileLoops& loops,
        spdf_parallel parallel, void* pool)
      : mask_(mask), loops_(loops), values_(new uint16_t[mask.kept() + 32]) {
    const int64_t count = mask.kept();
    run(parallel, pool, (count + kPart - 1) / kPart, [&](int64_t part) {
      const int64_t first = part * kPart;
      loops_.round(kept + first, std::min(kPart, count - first), values_.get() + first);
    });
    std::fill_n(values_.get() + count, 32, uint16_t{0});
  }

  void product(const void* x, const float* bias, int64_t tokens, void* y,
               spdf_parallel parallel, void* pool, int64_t threads) const override {
    const spdf::Compressed kernel = compressed();
    if (tokens <= kFewTokens) {
      const int64_t words = kernel.words, parts = std::min(threads, words);
      run(parallel, pool, tokens ? parts : 0, [&](int64_t part) {
        const int64_t first = words * part / parts * 64,
                      last = std::min(kernel.out, words * (part + 1) / parts * 64);
        loops_.few(kernel, first, last, static_cast<const uint16_t*>(x), bias, tokens,
                   scratch.get((last - first + 64 + kernel.in + 8) * tokens),
                   static_cast<uint16_t*>(y));
      });
      return;
    }
    blocks(kernel.out, kernel.in, tokens, parallel, pool, threads,
           [&](int64_t first, int64_t last, uint16_t* tiles) {
             loops_.expand_columns(kernel, first, last, tiles);
           },
           [&](int64_t first, int64_t last, const uint16_t* tiles, int64_t token,
               int64_t end, uint16_t* room) {
             loops_.product(kernel, first, last, tiles, static_cast<const uint16_t*>(x),
                            bias, token, end, room, static_cast<uint16_t*>(y));
           });
  }

  void gradients(const void* x, const void* dy, int64_t tokens, void* dx, float* gradient,
                 spdf_parallel parallel, void* pool, int64_t threads) const override {
    if (tokens == 0) {
      std::fill_n(gradient, mask_.kept(), 0.0f);
      return;
    }
    const spdf::Compressed kernel = compressed();
    const auto* inputs = static_cast<const uint16_t*>(x);
    const auto* slopes = static_cast<const uint16_t*>(dy);
    blocks(kernel.in, kernel.out, tokens, parallel, pool, threads,
           [&](int64_t first, int64_t last, uint16_t* tiles) {
             loops_.expand_rows(kernel, first, last, tiles);
           },
           [&](int64_t first, int64_t last, const uint16_t* tiles, int64_t token,
               int64_t end, uint16_t* room) {
             loops_.back(kernel, first, last, tiles, slopes, token, end, room,
                         static_cast<uint16_t*>(dx));
           });
    const int64_t batch = up(std::min(kBatch, tokens), kTileStep);
    auto* x_tiles = reinterpret_cast<uint16_t*>(
        shared.get((up(kernel.in, 32) + up(kernel.out, 32)) * batch / 2));
    uint16_t* dy_tiles = x_tiles + up(kernel.in, 32) * batch;
    for (int64_t start = 0; start < tokens; start += batch) {
      const int64_t here = std::min(batch, tokens - start);
      const int64_t steps = (here + kTileStep - 1) / kTileStep;
      run(parallel, pool, steps, [&](int64_t step) {
        const int64_t token = start + step * kTileStep, count = tokens - token;
        loops_.order_x(inputs + token * kernel.in, kernel.in, count, step, steps, x_tiles);
        loops_.order_dy(slopes + token * kernel.out, kernel.out, count, step, steps,
                        dy_tiles);
      });
      const int64_t width = block_width(kernel.in, batch, threads);
      run(parallel, pool, (kernel.in + width - 1) / width, [&](int64_t part) {
        const int64_t first = part * width, last = std::min(kernel.in, first + width);
        loops_.gradient(kernel, first, last, x_tiles, dy_tiles, steps, start > 0, gradient);
      });
    }
  }

 private:
  spdf::Compressed compressed() const {
    return {mask_.in(),       mask_.out(), mask_.bits.words, mask_.bits.bits.data(),
            mask_.starts.data(), values_.get()};
  }

  // Expands each block of `outer` and multiplies it; if there are fewer blocks than
  // threads, several threads expand the same block, each for other tokens.
  template <class Expand, class Multiply>
  static void blocks(int64_t outer, int64_t inner, int64_t tokens, spdf_parallel parallel,
                     void* pool, int64_t threads, const Expand& expand,
                     const Multiply& multiply) {
    const int64_t length = up(inner, kTileStep);
    const int64_t width = block_width(outer, length, threads);
    const int64_t count = (outer + width - 1) / width;
    const int64_t steps = (tokens + kTileStep - 1) / kTileStep;
    const int64_t parts =
        std::max<int64_t>(1, std::min(steps, (threads + count - 1) / count));
    run(parallel, pool, count * parts, [&](int64_t i) {
      const int64_t first = i / parts * width, last = std::min(outer, first + width);
      const int64_t part = i % parts;
      auto* tiles =
          reinterpret_cast<uint16_t*>(scratch.get(length * (width + kTileStep) / 2));
      expand(first, last, tiles);
      multiply(first, last, tiles, steps * part / parts * kTileStep,
               std::min(tokens, steps * (part + 1) / parts * kTileStep),
               tiles + length * width);
    });
  }

  // Returns how many of `outer` rows of `inner` numbers to take at a time: a multiple of
  // kTileStep, so that they stay near, and that threads get about equally many.
  static int64_t block_width(int64_t outer, int64_t inner, int64_t threads) {
    const int64_t most = std::max<int64_t>(4, kNearBytes / 2 / inner / kTileStep);
    const int64_t all = (outer + kTileStep - 1) / kTileStep;
    int64_t blocks = (all + most - 1) / most;
    blocks = std::min(all, (blocks + threads - 1) / threads * threads);
    return (all + blocks - 1) / blocks * kTileStep;
  }

  const spdf_mask& mask_;
  const TileLoops& loops_;
  std::unique_ptr<uint16_t[]> values_;
};

}  // namespace

namespace spdf {

OwnedLayout lay_out_tiles(const spdf_mask& mask, const float* kept, const TileLoops& loops,
                          spdf_parallel parallel, void* pool) {
  return std::make_unique<Tiles>(mask, kept, loops, parallel, pool);
}

}  // namespace spdf
