// A structure together with the arrays that it points to.

#ifndef SPDF_STRUCTURE_H_
#define SPDF_STRUCTURE_H_

#include <memory>
#include <vector>

#include "bit_matrix.h"
#include "loops.h"
#include "sparse.h"

struct spdf_structure {
  spdf::Structure view;
  std::vector<uint32_t> value_starts, place_starts, group_starts;
  std::vector<spdf::Group> groups;
  std::vector<uint8_t> places;
  std::vector<uint16_t> offsets;
};

namespace spdf {

// Builds the structure of a weight whose kept entries are given by line. One stride of the
// dense weight is 1: that of its rows if the lines are columns.
std::unique_ptr<spdf_structure> make_structure(const BitMatrix& kept, int64_t row_stride,
                                               int64_t column_stride,
                                               spdf_parallel parallel, void* pool);

// The lines of a region in the dense weight, and in a copy of the region.
struct Panel {
  int64_t lines, length, first_line, first, start, stride, copy_stride;

  Panel(const Structure& s, int64_t region) {
    const int64_t window = region / s.blocks, b = region % s.blocks;
    const int64_t rows = s.window_rows(window), columns = s.block_columns(b);
    const bool by_column = s.row_stride == 1;
    lines = by_column ? columns : rows;
    length = by_column ? rows : columns;
    first_line = by_column ? b * s.block : window * kWindow;
    first = by_column ? window * kWindow : b * s.block;
    start = window * kWindow * s.row_stride + b * s.block * s.column_stride;
    stride = by_column ? s.column_stride : s.row_stride;
    copy_stride = by_column ? kWindow : kMaxBlock;
  }
};

}  // namespace spdf

#endif  // SPDF_STRUCTURE_H_
