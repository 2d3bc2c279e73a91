// Builds expanding weights, and shares their products among threads.

#include "expanding.h"

#include <algorithm>

#include "parallel.h"
#include "scratch.h"
#include "source.h"

namespace spdf {
namespace {

// The loops load whole vectors of values, also behind the last one.
constexpr int64_t kBehind = 64;

thread_local Scratch scratch;
// Memory of the calling thread, which all threads of a call read.
thread_local Scratch rounded;

int64_t up(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

}  // namespace

ExpandingWeight::ExpandingWeight(const Entries& entries, const Write& write)
    : rows_(entries.source().rows),
      columns_(entries.source().columns),
      words_((columns_ + 63) / 64) {
  const BitMatrix& kept = entries.kept();
  const bool by_column = entries.source().by_column;
  std::vector<uint64_t> bits;
  std::vector<uint32_t> starts(rows_), next(rows_);
  std::vector<int32_t> sums(rows_);
  if (by_column) {
    bits.assign(rows_ * words_, 0);
    for (int64_t column = 0; column < columns_; ++column)
      entries.each(column, 0, rows_, [&](int64_t row, float) {
        bits[row * words_ + column / 64] |= uint64_t{1} << column % 64;
        ++next[row];
      });
  } else {
    bits = kept.bits;
    for (int64_t row = 0; row < rows_; ++row)
      next[row] = static_cast<uint32_t>(kept.count_before(row, columns_));
  }
  const bool dense = static_cast<double>(kept.count()) >
                     (1 - kLeastZeros) * static_cast<double>(rows_ * columns_);
  int64_t count = 0;
  for (int64_t row = 0; row < rows_; ++row) {
    starts[row] = static_cast<uint32_t>(count);
    count += dense ? 64 * words_ : next[row];
    next[row] = starts[row];
  }
  if (dense) count = up(rows_, kRowBlock) * 64 * words_;
  std::vector<int8_t> values(count + kBehind);
  // Values of a row come in the order of its columns either way.
  for (int64_t line = 0; line < kept.lines; ++line)
    entries.each(line, 0, kept.length, [&](int64_t entry, float value) {
      const int64_t row = by_column ? entry : line, column = by_column ? line : entry;
      int8_t* to = &values[dense ? starts[row] + column : next[row]++];
      write(value, row, to);
      sums[row] += *to;
    });
  if (dense) bits.clear();
  block_ = Block(Block::padded(8 * bits.size()) + Block::padded(values.size()) +
                 2 * Block::padded(4 * rows_));
  if (!dense) bits_ = block_.add(bits);
  values_ = block_.add(values);
  starts_ = block_.add(starts);
  sums_ = block_.add(sums);
}

int64_t ExpandingWeight::bytes() const {
  return static_cast<int64_t>(sizeof(*this) + block_.bytes());
}

void ExpandingWeight::product(const float* x, const float* bias, const float* scales,
                              int64_t tokens, float* y, spdf_parallel parallel, void* pool,
                              int64_t threads) const {
  if (tokens == 0) return;
  const ExpandingLoops& loops = *expanding_loops(tokens);
  const int64_t columns = words_ * 64, room = loops.padded_tokens(tokens);
  // Scales and zeros come first, so that the values stay aligned to 64 bytes.
  const int64_t head = up(2 * room, 16);
  float* memory = rounded.get(head + room * columns / 4);
  const Integers integers{tokens, columns, reinterpret_cast<uint8_t*>(memory + head),
                          memory, reinterpret_cast<int32_t*>(memory + room)};
  const int64_t shares = std::max<int64_t>(1, std::min(threads, room));
  run(parallel, pool, shares, [&](int64_t share) {
    loops.round(x, columns_, integers, room * share / shares, room * (share + 1) / shares);
  });
  const Expanding weight{rows_, columns_, words_, bits_, starts_, values_, sums_, scales};
  const int64_t blocks = (rows_ + kRowBlock - 1) / kRowBlock;
  const int64_t parts = std::max<int64_t>(1, std::min(threads, blocks));
  run(parallel, pool, parts, [&](int64_t part) {
    const int64_t first = blocks * part / parts * kRowBlock;
    const int64_t last = std::min(rows_, blocks * (part + 1) / parts * kRowBlock);
    loops.product(weight, integers, bias, first, last,
                  scratch.get(loops.scratch_floats(weight, tokens)), y);
  });
}

const ExpandingLoops* expanding_loops(int64_t tokens) {
#if defined(__x86_64__)
  static const ExpandingLoops* const vnni = vnni_loops ? vnni_loops() : nullptr;
  static const ExpandingLoops* const amx = vnni && amx_loops ? amx_loops() : nullptr;
  // A tile of AMX holds 16 tokens.
  return amx && tokens > 8 ? amx : vnni;
#else
  static_cast<void>(tokens);
  static const ExpandingLoops* const neon = neon_loops ? neon_loops() : nullptr;
  return neon;
#endif
}

}  // namespace spdf
