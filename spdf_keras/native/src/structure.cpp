// Sorts the places of a mask for the loops.

#include "sparse.h"

#include <vector>

#include "loops.h"

struct spdf_structure {
  spdf::Structure view;
  std::vector<uint8_t> counts, places;
  std::vector<uint16_t> offsets;
  std::vector<uint32_t> value_starts, place_starts;
};

using spdf::kMaxBlock;
using spdf::kPanel;
using spdf::kPatterns;

namespace {

// Columns of a block. Few, and a tile of them stays in the first-level cache; many, and
// the loops over columns with equal rows are long enough to be foreseen. Measured.
int64_t best_block(double density) {
  return density > 0.35 ? 96 : density > 0.15 ? 128 : kMaxBlock;
}

}  // namespace

extern "C" {

spdf_structure* spdf_structure_create(const uint8_t* mask, int64_t rows,
                                      int64_t columns, int64_t row_stride,
                                      int64_t column_stride) {
  if (!mask || rows < 1 || columns < 1 || rows > INT32_MAX / columns) return nullptr;
  if (row_stride != 1 && column_stride != 1) return nullptr;
  auto* made = new spdf_structure;
  int64_t kept = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      kept += mask[i * row_stride + j * column_stride] != 0;
  const int64_t block = best_block(static_cast<double>(kept) / (rows * columns));
  const int64_t groups = (rows + 3) / 4, blocks = (columns + block - 1) / block;
  made->view = {rows,   columns,    groups,        block,   blocks,  kept,
                row_stride, column_stride, nullptr, nullptr, nullptr, nullptr,
                nullptr};
  made->counts.assign(groups * blocks * kPatterns, 0);
  std::vector<uint8_t> found[kPatterns + 1];
  uint8_t* counts = made->counts.data();
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t g = 0; g < groups; ++g, counts += kPatterns) {
      made->value_starts.push_back(static_cast<uint32_t>(made->offsets.size()));
      made->place_starts.push_back(static_cast<uint32_t>(made->places.size()));
      for (auto& list : found) list.clear();
      const int64_t start = b * block;
      for (int64_t k = 0; k < block && start + k < columns; ++k) {
        int pattern = 0;
        for (int r = 0; r < 4 && 4 * g + r < rows; ++r)
          if (mask[(4 * g + r) * row_stride + (start + k) * column_stride])
            pattern |= 1 << r;
        found[pattern].push_back(static_cast<uint8_t>(k));
      }
      for (int pattern = kPatterns; pattern > 0; --pattern) {
        counts[pattern - 1] = static_cast<uint8_t>(found[pattern].size());
        for (uint8_t k : found[pattern]) {
          made->places.push_back(k);
          for (int r = 0; r < 4; ++r)
            if (pattern >> r & 1)
              made->offsets.push_back(static_cast<uint16_t>(
                  panel_offset(made->view, 4 * (g % kPanel) + r, k)));
        }
      }
    }
  made->value_starts.push_back(static_cast<uint32_t>(made->offsets.size()));
  made->view.counts = made->counts.data();
  made->view.places = made->places.data();
  made->view.offsets = made->offsets.data();
  made->view.value_starts = made->value_starts.data();
  made->view.place_starts = made->place_starts.data();
  return made;
}

void spdf_structure_free(spdf_structure* s) { delete s; }

int64_t spdf_structure_size(const spdf_structure* s) { return s->view.size; }

}

const spdf::Structure& spdf_view(const spdf_structure* s) { return s->view; }
