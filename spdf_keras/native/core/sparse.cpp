// The products: threads compute one tile of tokens after another.

#include "sparse.h"

#include <algorithm>
#include <cstring>

#include "loops.h"
#include "parallel.h"
#include "scratch.h"
#include "structure.h"

namespace {

using spdf::kCopy;
using spdf::kWindow;
using spdf::Loops;
using spdf::Panel;
using spdf::run;
using spdf::Scratch;
using spdf::Structure;
using spdf::Values;

// Number of tiles that are transposed at a time for the gradients.
constexpr int64_t kBatch = 32;

// Number of lines of a weight that are prefetched ahead of the copy: hardware prefetching
// fails because every line lies on another page.
constexpr int64_t kAhead = 8;

// Bytes of activations that stay in the second-level cache.
constexpr int64_t kNearBytes = 768 << 10;

const Loops* best_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
    return spdf::avx512_loops();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return spdf::avx2_loops();
#endif
  return spdf::portable_loops();
}

const Loops* set_in_use = best_loops();

// Returns the loops with the narrowest tile that holds the tokens, or else the widest.
const Loops& loops_for(const Structure& s, int64_t tokens) {
  const Loops* loops = set_in_use;
#if defined(__x86_64__)
  // So few tokens fit half a register; loading a whole one takes twice as long.
  if (loops == spdf::avx512_loops() && 1 < tokens && tokens <= 8)
    loops = spdf::avx2_loops();
#endif
  while (loops[1].name && tokens <= loops[1].tile && s.block <= loops[1].most_columns)
    ++loops;
  return *loops;
}

thread_local Scratch scratch;
// Memory of the calling thread, which all threads of a call use.
thread_local Scratch shared;

// Writes a region's values to its part of the dense weight, with zeros between them.
void scatter_region(const Structure& s, int64_t region, const float* values,
                    float* weight) {
  const Panel p(s, region);
  float* copy = scratch.get(kCopy + 1);
  std::memset(copy, 0, p.lines * p.copy_stride * sizeof(float));
  for (uint32_t v = s.value_starts[region]; v < s.value_starts[region + 1]; ++v)
    copy[s.offsets[v]] = values[v];
  for (int64_t line = 0; line < p.lines; ++line)
    std::memcpy(weight + p.start + line * p.stride, copy + line * p.copy_stride,
                p.length * sizeof(float));
}

// Floats of a window's tile, including the padding rows of its last group.
int64_t window_floats(int64_t tile) { return (kWindow + 3) * tile; }

// Computes windows [first, last) of the product of one tile, and writes them as tokens.
// `scratch` has room for a window's tile.
void multiply(const Structure& s, const Loops& loops, int64_t first, int64_t last,
              const Values& values, const float* tile, int64_t count, const float* bias,
              float* scratch, float* y) {
  for (int64_t w = first; w < last; ++w) {
    const int64_t row = w * kWindow;
    loops.product[values.type](s, w, values.data, tile, scratch);
    loops.from_tile(scratch, s.window_rows(w), s.rows, count,
                    bias ? bias + row : nullptr,
                    values.scales ? values.scales + row : nullptr, y + row);
  }
}

}  // namespace

namespace spdf {

int64_t widest_tile() { return set_in_use->tile; }

const Loops& widest_loops() { return *set_in_use; }

void product(const Structure& s, const Values& values, const float* x, const float* bias,
             int64_t tokens, float* y, spdf_parallel parallel, void* pool,
             int64_t threads) {
  const Loops& loops = loops_for(s, tokens);
  const int64_t tile = loops.tile, tiles = (tokens + tile - 1) / tile;
  // If there are few tokens, several threads share a tile; each computes other rows.
  const int64_t parts =
      std::min(s.windows, std::max<int64_t>(1, threads / std::max<int64_t>(tiles, 1)));
  run(parallel, pool, tiles * parts, [&](int64_t i) {
    const int64_t t = i / parts, part = i % parts;
    const int64_t count = std::min(tile, tokens - t * tile);
    float* in = scratch.get(s.columns * tile + window_floats(tile));
    loops.to_tile(x + t * tile * s.columns, s.columns, s.columns, count, in);
    multiply(s, loops, s.windows * part / parts, s.windows * (part + 1) / parts, values,
             in, count, bias, in + s.columns * tile, y + t * tile * s.rows);
  });
}

}  // namespace spdf

extern "C" {

const char* spdf_instruction_set(const char* limit) {
  if (limit && !std::strcmp(limit, "portable")) set_in_use = spdf::portable_loops();
#if defined(__x86_64__)
  if (limit && !std::strcmp(limit, "avx2") && __builtin_cpu_supports("avx2"))
    set_in_use = spdf::avx2_loops();
  if (limit && !std::strcmp(limit, "avx512")) set_in_use = best_loops();
#endif
  return set_in_use->name;
}

void spdf_gather(const spdf_structure* structure, const float* weight, float* values,
                 spdf_parallel parallel, void* pool) {
  const Structure& s = structure->view;
  run(parallel, pool, s.regions(), [&](int64_t i) {
    const Panel p(s, i);
    // Without the copy, all lines of a region would map to the same sets of the cache.
    float* copy = scratch.get(kCopy + 1);
    for (int64_t line = 0; line < p.lines; ++line) {
      const float* from = weight + p.start + line * p.stride;
      if (line + kAhead < p.lines)
        for (int64_t i = 0; i < p.length; i += 16)
          __builtin_prefetch(from + kAhead * p.stride + i);
      std::memcpy(copy + line * p.copy_stride, from, p.length * sizeof(float));
    }
    copy[kCopy] = 0;
    for (uint32_t v = s.value_starts[i]; v < s.value_starts[i + 1]; ++v)
      values[v] = copy[s.offsets[v]];
  });
}

void spdf_product(const spdf_structure* structure, const float* values, const float* x,
                  const float* bias, int64_t tokens, float* y, spdf_parallel parallel,
                  void* pool, int64_t threads) {
  spdf::product(structure->view, {SPDF_FLOAT32, values, nullptr}, x, bias, tokens, y,
                parallel, pool, threads);
}

void spdf_gradients(const spdf_structure* forward, const spdf_structure* transposed,
                    const float* transposed_values, const float* x, const float* dy,
                    int64_t tokens, float* dx, float* gradient, float* sums,
                    spdf_parallel parallel, void* pool, int64_t threads) {
  const Structure& f = forward->view;
  const Structure& b = transposed->view;
  if (tokens == 0) {
    std::fill_n(gradient, f.rows * f.columns, 0.0f);
    return;
  }
  // The loops for a single token have no gradient.
  const Loops& loops = loops_for(f, std::max<int64_t>(tokens, 2));
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
  float* in = shared.get(batch * (f.columns + rows) * tile);
  float* slope = in + batch * f.columns * tile;
  for (int64_t start = 0; start < tiles; start += batch) {
    const int64_t here = std::min(batch, tiles - start);
    run(parallel, pool, here, [&](int64_t i) {
      const int64_t t = start + i, count = std::min(tile, tokens - t * tile);
      float* x_tile = in + i * f.columns * tile;
      float* dy_tile = slope + i * rows * tile;
      loops.to_tile(x + t * tile * f.columns, f.columns, f.columns, count, x_tile);
      loops.to_tile(dy + t * tile * f.rows, f.rows, f.rows, count, dy_tile);
      std::memset(dy_tile + f.rows * tile, 0, 3 * tile * sizeof(float));
      multiply(b, loops, 0, b.windows, {SPDF_FLOAT32, transposed_values, nullptr}, dy_tile,
               count, nullptr, scratch.get(window_floats(tile)), dx + t * tile * b.rows);
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
          if (start + to == tiles) scatter_region(f, region, sums, gradient);
        }
      }
    });
  }
}
}
