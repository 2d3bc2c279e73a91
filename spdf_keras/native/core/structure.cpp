// Builds the structure of a mask.

#include "structure.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "column_set.h"
#include "parallel.h"
#include "sparse.h"

namespace {

using spdf::BitMatrix;
using spdf::Columns;
using spdf::copy_place;
using spdf::Group;
using spdf::kAlign;
using spdf::kCopy;
using spdf::join;
using spdf::kMaxBlock;
using spdf::kWindow;
using spdf::Panel;
using spdf::run;
using spdf::Structure;

// Returns the measured best number of columns of a block. A tile of few columns stays in
// the first-level cache; with many columns, sums are loaded and stored less often.
int64_t best_block(double density, int64_t tile) {
  if (tile < 64) return kMaxBlock;
  return density > 0.35 ? 96 : density > 0.15 ? 112 : 128;
}

// One region of a structure under construction.
struct Region {
  std::vector<Group> groups;
  std::vector<uint8_t> places;
  std::vector<uint16_t> offsets;
};

// Forms the groups of a region, and assigns the columns of their steps.
class RegionMaker {
 public:
  RegionMaker(const Structure& s, int64_t columns, Region* region)
      : s_(s), columns_(columns), region_(*region) {}

  // Adds the group of rows `sorted[first]` to `sorted[first + 3]`; `sets` holds the kept
  // columns of each row.
  void add_group(const Columns* sets, const int* sorted, int64_t first, int64_t rows) {
    Columns own[4];
    int ids[4];
    for (int r = 0; r < 4; ++r) {
      const bool is_there = first + r < rows;
      // A padding row has an index at or above the row count of the window.
      ids[r] = static_cast<int>(is_there ? sorted[first + r] : first + r);
      if (is_there) own[r] = sets[ids[r]];
    }
    choose_pairs(own, ids);
    Columns shared[2] = {own[0].shared(own[1]), own[2].shared(own[3])};
    // At most as many as random rows of this length share on average: otherwise the number
    // of steps would differ from group to group, and branch prediction would fail.
    const int longest = own[0].count();
    const int usual = static_cast<int>(longest * longest / columns_);
    Group group{};
    group.pairs = static_cast<uint16_t>(
        std::min({shared[0].count(), shared[1].count(), usual}));
    for (int step = 0; step < group.pairs; ++step)
      for (int pair = 0; pair < 2; ++pair) {
        const int k = shared[pair].take();
        region_.places.push_back(static_cast<uint8_t>(k));
        for (int r = 2 * pair; r < 2 * pair + 2; ++r) {
          own[r].remove(k);
          add_value(ids[r], k);
        }
      }
    int singles = 0;
    for (const Columns& set : own) singles = std::max(singles, set.count());
    group.singles = static_cast<uint16_t>(singles);
    for (int step = 0; step < singles; ++step)
      for (int r = 0; r < 4; ++r) {
        const int k = own[r].take();
        region_.places.push_back(static_cast<uint8_t>(std::max(k, 0)));
        add_value(ids[r], k);
      }
    for (int r = 0; r < 4; ++r) group.rows[r] = static_cast<uint16_t>(ids[r]);
    region_.groups.push_back(group);
  }

  // Fills the region up to a multiple of `kAlign` values.
  void finish() {
    while (region_.offsets.size() % kAlign) add_value(0, -1);
  }

 private:
  // Chooses the one of three ways to pair four rows that shares the most columns.
  static void choose_pairs(Columns (&own)[4], int (&ids)[4]) {
    int best = 1, most = -1;
    for (int partner = 1; partner < 4; ++partner) {
      const int others[2] = {partner == 1 ? 2 : 1, partner == 3 ? 2 : 3};
      const int common = std::min(own[0].shared(own[partner]).count(),
                                  own[others[0]].shared(own[others[1]]).count());
      if (common > most) most = common, best = partner;
    }
    std::swap(own[1], own[best]);
    std::swap(ids[1], ids[best]);
  }

  // Adds the value in column `k` of a row, or a filler if `k` is -1.
  void add_value(int64_t row, int64_t k) {
    region_.offsets.push_back(static_cast<uint16_t>(k < 0 ? kCopy : copy_place(s_, row, k)));
  }

  const Structure& s_;
  const int64_t columns_;
  Region& region_;
};

// Builds the region with the given index.
Region make_region(const Structure& s, const BitMatrix& kept, int64_t index) {
  const Panel panel(s, index);
  const int64_t rows = s.window_rows(index / s.blocks);
  const int64_t columns = s.block_columns(index % s.blocks);
  Columns sets[kWindow];
  for (int64_t i = 0; i < panel.lines; ++i)
    for (int64_t first = 0; first < panel.length; first += 64) {
      uint64_t word = kept.word_at(panel.first_line + i, panel.first + first);
      if (panel.length - first < 64) word &= (uint64_t{1} << (panel.length - first)) - 1;
      if (s.row_stride != 1) {
        sets[i].words[first / 64] = word;
      } else {
        for (; word; word &= word - 1) sets[first + __builtin_ctzll(word)].insert(i);
      }
    }
  int counts[kWindow], sorted[kWindow];
  for (int64_t i = 0; i < rows; ++i) counts[i] = sets[i].count();
  std::iota(sorted, sorted + rows, 0);
  std::stable_sort(sorted, sorted + rows,
                   [&](int i, int j) { return counts[i] > counts[j]; });
  Region region;
  RegionMaker maker(s, columns, &region);
  for (int64_t first = 0; first < rows; first += 4)
    maker.add_group(sets, sorted, first, rows);
  maker.finish();
  return region;
}

}  // namespace

namespace spdf {

std::unique_ptr<spdf_structure> make_structure(const BitMatrix& kept, int64_t row_stride,
                                               int64_t column_stride,
                                               spdf_parallel parallel, void* pool) {
  const bool by_column = row_stride == 1;
  auto structure = std::make_unique<spdf_structure>();
  Structure& s = structure->view;
  s.rows = by_column ? kept.length : kept.lines;
  s.columns = by_column ? kept.lines : kept.length;
  s.windows = (s.rows + kWindow - 1) / kWindow;
  s.block = best_block(
      static_cast<double>(kept.count()) / static_cast<double>(s.rows * s.columns),
      widest_tile());
  s.blocks = (s.columns + s.block - 1) / s.block;
  s.row_stride = row_stride;
  s.column_stride = column_stride;
  std::vector<Region> regions(s.regions());
  run(parallel, pool, s.regions(),
      [&](int64_t i) { regions[i] = make_region(s, kept, i); });
  structure->value_starts = join(regions, &Region::offsets, &structure->offsets);
  structure->place_starts = join(regions, &Region::places, &structure->places);
  structure->group_starts = join(regions, &Region::groups, &structure->groups);
  // The loops read whole vectors of places.
  structure->places.resize(structure->places.size() + 16);
  s.value_starts = structure->value_starts.data();
  s.place_starts = structure->place_starts.data();
  s.group_starts = structure->group_starts.data();
  s.groups = structure->groups.data();
  s.places = structure->places.data();
  s.offsets = structure->offsets.data();
  return structure;
}

}  // namespace spdf
