// The products: threads compute one tile of tokens after another.

#include "sparse.h"

#include <algorithm>
#include <cstring>

#include "activations.h"
#include "loops.h"
#include "pairs.h"
#include "parallel.h"
#include "scratch.h"
#include "tiles.h"

namespace {

using spdf::Loops;
using spdf::Scratch;

// Sets of instructions, each with those before it.
constexpr const char* kSets[] = {"portable", "avx2", "avx512", "bf16", "amx"};
enum Level { kPortable, kAvx2, kAvx512, kBfloat16, kAmx };

Level best_level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
    return spdf::tile_loops && spdf::tile_loops() ? kAmx
           : spdf::pairs_pay()                    ? kBfloat16
                                                  : kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kPortable;
}

Level level = best_level();

const Loops* loops_in_use() {
#if defined(__x86_64__)
  if (level >= kAvx512) return spdf::avx512_loops();
  if (level == kAvx2) return spdf::avx2_loops();
#endif
  return spdf::portable_loops();
}

thread_local Scratch scratch;

}  // namespace

namespace spdf {

int64_t widest_tile() { return loops_in_use()->tile; }

const Loops& widest_loops() { return *loops_in_use(); }

const TileLoops* tiles_in_use() { return level == kAmx ? tile_loops() : nullptr; }

bool pairs_in_use() { return level == kBfloat16 && paired_loops(); }

const Loops& loops_for(const Structure& s, int64_t tokens) {
  const Loops* loops = loops_in_use();
#if defined(__x86_64__)
  // So few tokens fit half a register; loading a whole one takes twice as long.
  if (loops == spdf::avx512_loops() && 1 < tokens && tokens <= 8)
    loops = spdf::avx2_loops();
#endif
  while (loops[1].name && tokens <= loops[1].tile && s.block <= loops[1].most_columns)
    ++loops;
  return *loops;
}

void product(const Structure& s, const Values& values, const void* x,
             spdf_type activations, const float* bias, int64_t tokens, void* y,
             spdf_parallel parallel, void* pool, int64_t threads) {
  const Loops& loops = loops_for(s, tokens);
  const Activations inputs(x, activations, s.columns);
  const int64_t tile = loops.tile, tiles = (tokens + tile - 1) / tile;
  // If there are few tokens, several threads share a tile; each computes other rows.
  const int64_t parts =
      std::min(s.windows, std::max<int64_t>(1, threads / std::max<int64_t>(tiles, 1)));
  run(parallel, pool, tiles * parts, [&](int64_t i) {
    const int64_t t = i / parts, part = i % parts;
    const int64_t count = std::min(tile, tokens - t * tile);
    float* in = scratch.get(s.columns * tile + window_floats(tile) + inputs.room(loops));
    float* room = in + s.columns * tile;
    inputs.to_tile(loops, t * tile, count, room + window_floats(tile), in);
    multiply(s, loops, s.windows * part / parts, s.windows * (part + 1) / parts, values,
             in, count, bias, room, activations, y, t * tile);
  });
}

}  // namespace spdf

extern "C" {

const char* spdf_instruction_set(const char* limit) {
  if (limit) {
    level = best_level();
    for (int i = kPortable; i < level; ++i)
      if (!std::strcmp(limit, kSets[i])) level = static_cast<Level>(i);
  }
  return kSets[level];
}
}
