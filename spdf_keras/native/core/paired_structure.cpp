// Builds the structure of a mask whose values are taken in pairs.

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "column_set.h"
#include "pairs.h"
#include "parallel.h"

namespace spdf {
namespace {

// Returns a good number of columns of a block. A tile of few columns stays in the
// first-level cache; with many columns, sums are loaded and stored less often.
int64_t paired_block(double density) {
  return density > 0.35 ? 128 : density > 0.15 ? 160 : 192;
}

// One region of a structure under construction.
struct Region {
  std::vector<PairedGroup> groups;
  std::vector<uint8_t> places;
  std::vector<uint16_t> offsets;
};

// Forms the groups of a region, and assigns the columns of their steps.
class RegionMaker {
 public:
  RegionMaker(const BitMatrix& kept, const PairedStructure& s, int64_t index)
      : rows_(s.window_rows(index / s.blocks)),
        columns_(s.block_columns(index % s.blocks)),
        sets_(kWindow + 1),
        positions_(kCopy) {
    const int64_t first_row = index / s.blocks * kWindow,
                  first_column = index % s.blocks * s.block;
    const int64_t lines = s.by_column ? columns_ : rows_;
    const int64_t length = s.by_column ? rows_ : columns_;
    for (int64_t line = 0; line < lines; ++line)
      for (int64_t first = 0; first < length; first += 64) {
        uint64_t word = kept.word_at((s.by_column ? first_column : first_row) + line,
                                     (s.by_column ? first_row : first_column) + first);
        if (length - first < 64) word &= (uint64_t{1} << (length - first)) - 1;
        for (; word; word &= word - 1) {
          const int64_t entry = first + __builtin_ctzll(word);
          const int64_t row = s.by_column ? entry : line;
          const int64_t column = s.by_column ? line : entry;
          sets_[row].insert(column);
          positions_[row * kMaxBlock + column] = static_cast<uint16_t>(count_++);
        }
      }
  }

  Region made() {
    std::vector<int> counts(rows_), sorted(rows_);
    for (int64_t row = 0; row < rows_; ++row) counts[row] = sets_[row].count();
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int i, int j) { return counts[i] > counts[j]; });
    // The padding row has no columns.
    if (rows_ % 2) sorted.push_back(static_cast<int>(rows_));
    for (size_t i = 0; i < sorted.size(); i += 2) add_group(sorted[i], sorted[i + 1]);
    return std::move(region_);
  }

 private:
  void add_group(int row, int other) {
    Columns &own = sets_[row], &others = sets_[other];
    Columns both = own.shared(others);
    // At most as many as random rows of this length share on average: otherwise the
    // number of steps would differ from group to group, and branch prediction would fail.
    const int longest = own.count();
    const int usual = static_cast<int>(longest * longest / columns_);
    const int shared = std::min(both.count(), usual) / 2;
    for (int step = 0; step < shared; ++step) {
      const int first = both.take(), second = both.take();
      add_places(first, second);
      for (int r : {row, other}) {
        add_values(r, first, second);
        sets_[r].remove(first);
        sets_[r].remove(second);
      }
    }
    const int singles = (std::max(own.count(), others.count()) + 1) / 2;
    for (int step = 0; step < singles; ++step)
      for (int r : {row, other}) {
        const int first = sets_[r].take(), second = sets_[r].take();
        add_places(first, second);
        add_values(r, first, second);
      }
    region_.groups.push_back({{static_cast<uint16_t>(row), static_cast<uint16_t>(other)},
                              static_cast<uint16_t>(shared),
                              static_cast<uint16_t>(singles)});
  }

  // A column of -1 makes a filler, which multiplies column 0 by 0.
  void add_places(int first, int second) {
    for (int k : {first, second})
      region_.places.push_back(static_cast<uint8_t>(std::max(k, 0)));
  }
  void add_values(int row, int first, int second) {
    for (int k : {first, second})
      region_.offsets.push_back(k < 0 ? static_cast<uint16_t>(count_)
                                      : positions_[row * kMaxBlock + k]);
  }

  const int64_t rows_, columns_;
  std::vector<Columns> sets_;
  // Index of each kept entry (row, column) among those of the region.
  std::vector<uint16_t> positions_;
  int64_t count_ = 0;
  Region region_;
};

// Returns the positions of kept values by line and band; see `PairedStructure`.
std::vector<uint32_t> line_starts(const BitMatrix& kept, int64_t band) {
  std::vector<uint32_t> starts;
  uint32_t sum = 0;
  for (int64_t line = 0; line < kept.lines; ++line) {
    starts.push_back(sum);
    for (int64_t first = 0; first < kept.length; first += band) {
      const int64_t end = std::min(kept.length, first + band);
      for (int64_t i = first; i < end; i += 64) {
        const uint64_t word = kept.word_at(line, i);
        sum += static_cast<uint32_t>(__builtin_popcountll(
            end - i < 64 ? word & ((uint64_t{1} << (end - i)) - 1) : word));
      }
      starts.push_back(sum);
    }
  }
  return starts;
}

}  // namespace

std::unique_ptr<const PairedStructure> make_paired(const BitMatrix& kept, bool by_column,
                                                   spdf_parallel parallel, void* pool) {
  auto made = std::make_unique<PairedStructure>();
  PairedStructure& s = *made;
  s.by_column = by_column;
  s.rows = by_column ? kept.length : kept.lines;
  s.columns = by_column ? kept.lines : kept.length;
  s.windows = (s.rows + kWindow - 1) / kWindow;
  s.block = paired_block(static_cast<double>(kept.count()) /
                         static_cast<double>(s.rows * s.columns));
  s.blocks = (s.columns + s.block - 1) / s.block;
  s.line_starts = line_starts(kept, by_column ? kWindow : s.block);
  std::vector<Region> regions(s.regions());
  run(parallel, pool, s.regions(),
      [&](int64_t i) { regions[i] = RegionMaker(kept, s, i).made(); });
  s.step_starts = join(regions, &Region::offsets, &s.offsets);
  for (uint32_t& start : s.step_starts) start /= 4;
  s.place_starts = join(regions, &Region::places, &s.places);
  s.group_starts = join(regions, &Region::groups, &s.groups);
  return made;
}

}  // namespace spdf
