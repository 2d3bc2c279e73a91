// The products, tile by tile, over threads.

#include "sparse.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "loops.h"

const spdf::Structure& spdf_view(const spdf_structure* s);

namespace {

using spdf::kMaxBlock;
using spdf::kPanel;
using spdf::Loops;
using spdf::Structure;

// Groups of rows that are computed together: their results stay in the second-level
// cache from one block of columns to the next.
constexpr int64_t kGroups = 128;

// Tiles that are packed at a time for the gradients.
constexpr int64_t kBatch = 32;

const Loops* best_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return spdf::avx512_loops();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return spdf::avx2_loops();
#endif
  return spdf::portable_loops();
}

const Loops* loops = best_loops();

// Memory of one thread that is kept between calls: a fresh one would be zeroed by the
// system each time.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* get(size_t floats) {
    if (floats > size_) {
      std::free(data_);
      size_ = (floats + 15) / 16 * 16;
      data_ = static_cast<float*>(std::aligned_alloc(64, size_ * sizeof(float)));
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

thread_local Scratch scratch;
// That of the caller, which all threads of a call use.
thread_local Scratch shared;

template <class Body>
void run(spdf_parallel parallel, void* pool, int64_t count, const Body& body) {
  if (!parallel || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  parallel(
      pool, count,
      [](void* argument, int64_t i) { (*static_cast<const Body*>(argument))(i); },
      const_cast<Body*>(&body));
}

// A panel: some groups of rows in one block of columns.
struct Panel {
  int64_t first, last;     // its values
  int64_t lines, length;   // of the dense weight
  int64_t start, stride;   // where they lie in it
  int64_t copy_stride;     // and in the copy
};

template <class Body>
void for_each_panel(const Structure& s, spdf_parallel parallel, void* pool,
                    const Body& body) {
  const int64_t panels = (s.groups + kPanel - 1) / kPanel;
  run(parallel, pool, s.blocks * panels, [&](int64_t i) {
    const int64_t b = i / panels, g = i % panels * kPanel;
    const int64_t end = std::min(s.groups, g + kPanel), row = 4 * g;
    const int64_t rows = std::min(s.rows, 4 * end) - row;
    const int64_t column = b * s.block, columns = std::min(s.block, s.columns - column);
    const bool by_column = s.row_stride == 1;
    const uint32_t* starts = s.value_starts + b * s.groups;
    body(Panel{starts[g], starts[end], by_column ? columns : rows,
               by_column ? rows : columns,
               row * s.row_stride + column * s.column_stride,
               by_column ? s.column_stride : s.row_stride,
               by_column ? 4 * kPanel : kMaxBlock});
  });
}

int64_t padded_rows(const Structure& s) { return 4 * s.groups; }

// Groups [first, last) of one tile's product, as tokens.
void multiply(const Structure& s, int64_t first, int64_t last, const float* values,
              const float* tile, int64_t count, const float* bias, float* scratch,
              float* y) {
  for (int64_t g = first; g < last; g += kGroups) {
    const int64_t end = std::min(last, g + kGroups), row = 4 * g;
    loops->product(s, g, end, values, tile, scratch);
    loops->unpack(scratch, std::min(4 * end, s.rows) - row, s.rows, count,
                  bias ? bias + row : nullptr, y + row);
  }
}

}  // namespace

extern "C" {

const char* spdf_instruction_set(const char* limit) {
  if (limit && !std::strcmp(limit, "portable")) loops = spdf::portable_loops();
#if defined(__x86_64__)
  if (limit && !std::strcmp(limit, "avx2") && __builtin_cpu_supports("avx2"))
    loops = spdf::avx2_loops();
  if (limit && !std::strcmp(limit, "avx512")) loops = best_loops();
#endif
  return loops->name;
}

void spdf_gather(const spdf_structure* structure, const float* weight, float* values,
                 spdf_parallel parallel, void* pool) {
  const Structure& s = spdf_view(structure);
  for_each_panel(s, parallel, pool, [&](const Panel& p) {
    // Read in place, the lines of a panel fall into one set of the cache.
    alignas(64) float copy[4 * kPanel * kMaxBlock];
    for (int64_t i = 0; i < p.lines; ++i)
      std::memcpy(copy + i * p.copy_stride, weight + p.start + i * p.stride,
                  p.length * sizeof(float));
    for (int64_t i = p.first; i < p.last; ++i) values[i] = copy[s.offsets[i]];
  });
}

void spdf_scatter(const spdf_structure* structure, const float* values, float* weight,
                  spdf_parallel parallel, void* pool) {
  const Structure& s = spdf_view(structure);
  for_each_panel(s, parallel, pool, [&](const Panel& p) {
    alignas(64) float copy[4 * kPanel * kMaxBlock];
    std::memset(copy, 0, sizeof(copy));
    for (int64_t i = p.first; i < p.last; ++i) copy[s.offsets[i]] = values[i];
    for (int64_t i = 0; i < p.lines; ++i)
      std::memcpy(weight + p.start + i * p.stride, copy + i * p.copy_stride,
                  p.length * sizeof(float));
  });
}

void spdf_product(const spdf_structure* structure, const float* values, const float* x,
                  const float* bias, int64_t tokens, float* y, spdf_parallel parallel,
                  void* pool, int64_t threads) {
  const Structure& s = spdf_view(structure);
  const int64_t tile = loops->tile, tiles = (tokens + tile - 1) / tile;
  // Few tokens: several threads share a tile, each with rows of its own.
  const int64_t parts =
      std::min(s.groups, std::max<int64_t>(1, threads / std::max<int64_t>(tiles, 1)));
  run(parallel, pool, tiles * parts, [&](int64_t i) {
    const int64_t t = i / parts, part = i % parts;
    const int64_t first = s.groups * part / parts, last = s.groups * (part + 1) / parts;
    const int64_t count = std::min(tile, tokens - t * tile);
    float* in = scratch.get((s.columns + kGroups * 4) * tile);
    float* out = in + s.columns * tile;
    loops->pack(x + t * tile * s.columns, s.columns, s.columns, count, in);
    multiply(s, first, last, values, in, count, bias, out, y + t * tile * s.rows);
  });
}

void spdf_gradients(const spdf_structure* forward, const spdf_structure* transposed,
                    const float* transposed_values, const float* x, const float* dy,
                    int64_t tokens, float* dx, float* gradient, spdf_parallel parallel,
                    void* pool, int64_t threads) {
  const Structure& f = spdf_view(forward);
  const Structure& b = spdf_view(transposed);
  const int64_t tile = loops->tile, tiles = (tokens + tile - 1) / tile;
  const int64_t rows = padded_rows(f), batch = std::min(kBatch, tiles);
  const int64_t parts = std::max<int64_t>(1, std::min(threads, f.groups));
  float* in = shared.get(batch * (f.columns + rows) * tile);
  float* slope = in + batch * f.columns * tile;
  std::fill_n(gradient, f.size, 0.0f);
  for (int64_t start = 0; start < tiles; start += batch) {
    const int64_t here = std::min(batch, tiles - start);
    run(parallel, pool, here, [&](int64_t i) {
      const int64_t t = start + i, count = std::min(tile, tokens - t * tile);
      float* x_tile = in + i * f.columns * tile;
      float* dy_tile = slope + i * rows * tile;
      loops->pack(x + t * tile * f.columns, f.columns, f.columns, count, x_tile);
      loops->pack(dy + t * tile * f.rows, f.rows, f.rows, count, dy_tile);
      std::memset(dy_tile + f.rows * tile, 0, (rows - f.rows) * tile * sizeof(float));
      multiply(b, 0, b.groups, transposed_values, dy_tile, count, nullptr,
               scratch.get(kGroups * 4 * tile), dx + t * tile * b.rows);
    });
    run(parallel, pool, parts, [&](int64_t i) {
      loops->gradient(f, f.groups * i / parts, f.groups * (i + 1) / parts, here, in,
                      slope, gradient);
    });
  }
}
}
