// Packs weights, and computes their products.

#include "packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "block.h"
#include "expanding.h"
#include "loops.h"
#include "parallel.h"
#include "scratch.h"
#include "source.h"
#include "structure.h"

namespace {

using spdf::Entries;
using spdf::kCopy;
using spdf::Panel;
using spdf::run;
using spdf::Structure;

// The loops load whole vectors of values, also behind the last one.
constexpr size_t kBehind = 64;

thread_local spdf::Scratch scratch;

size_t bytes_of(spdf_type type) {
  return type == SPDF_FLOAT32 ? 4 : type == SPDF_FLOAT16 ? 2 : 1;
}

// Rounds to the nearest float16, and to even between two.
uint16_t to_half(float value) {
#if defined(__aarch64__)
  const __fp16 half = static_cast<__fp16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  if (bits < 0x38800000) {
    float rest;
    std::memcpy(&rest, &bits, 4);
    return static_cast<uint16_t>(sign | std::lrint(rest * 16777216.0f));
  }
  bits += 0xc8000fff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | bits >> 13);
#endif
}

// Returns, for each row, the factor of its values as integers from -127 to 127.
std::vector<float> integer_scales(const Entries& entries) {
  std::vector<float> scales = entries.scales();
  if (entries.source().type == SPDF_INT8) return scales;
  std::vector<float> largest(scales.size());
  for (int64_t line = 0; line < entries.kept().lines; ++line)
    entries.each(line, 0, entries.kept().length, [&](int64_t entry, float value) {
      float& own = largest[entries.source().by_column ? entry : line];
      own = std::max(own, std::fabs(value));
    });
  for (size_t row = 0; row < scales.size(); ++row)
    scales[row] = largest[row] > 0 ? largest[row] / 127 : 1;
  return scales;
}

// Converts values of a source to those of a packed weight.
class Converter {
 public:
  Converter(const Entries& entries, spdf_type type)
      : type_(type),
        from_integers_(entries.source().type == SPDF_INT8),
        scales_(type == SPDF_INT8 ? integer_scales(entries) : entries.scales()) {}

  // Writes the value of a row to index `i` of `values`.
  void write(float value, int64_t row, uint8_t* values, int64_t i) const {
    if (type_ == SPDF_INT8) {
      const float steps = from_integers_ ? value : value / scales_[row];
      const auto integer =
          static_cast<int8_t>(std::lrint(std::clamp(steps, -127.0f, 127.0f)));
      std::memcpy(values + i, &integer, 1);
      return;
    }
    value *= scales_[row];
    if (type_ == SPDF_FLOAT16) {
      const uint16_t half = to_half(value);
      std::memcpy(values + 2 * i, &half, 2);
    } else {
      std::memcpy(values + 4 * i, &value, 4);
    }
  }

  // Returns the scales that products apply; none if the values have them already.
  std::vector<float> scales() const {
    return type_ == SPDF_INT8 ? scales_ : std::vector<float>();
  }

 private:
  const spdf_type type_;
  const bool from_integers_;
  const std::vector<float> scales_;
};

}  // namespace

struct spdf_packed {
  int64_t rows, columns;
  spdf_type type;
  std::vector<float> scales;
  // Either an expanding weight, or values in a block: dense rows of `padded_columns`, or
  // those of a structure if that is 0.
  spdf::Block block;
  const void* values;
  int64_t padded_columns = 0;
  Structure structure;
  std::unique_ptr<spdf::ExpandingWeight> expanding;
};

namespace {

// Returns the values in the order of a structure.
std::vector<uint8_t> gather(const Structure& s, const Entries& entries, spdf_type type,
                            const Converter& converter, spdf_parallel parallel,
                            void* pool) {
  const bool by_column = entries.source().by_column;
  std::vector<uint8_t> values(s.values() * bytes_of(type) + kBehind);
  run(parallel, pool, s.regions(), [&](int64_t region) {
    const Panel p(s, region);
    float* copy = scratch.get(kCopy + 1);
    std::memset(copy, 0, (kCopy + 1) * sizeof(float));
    for (int64_t line = 0; line < p.lines; ++line)
      entries.each(p.first_line + line, p.first, p.first + p.length,
                   [&](int64_t entry, float value) {
                     copy[line * p.copy_stride + entry - p.first] = value;
                   });
    const int64_t first_row = region / s.blocks * spdf::kWindow;
    for (int64_t v = s.value_starts[region]; v < s.value_starts[region + 1]; ++v) {
      const int64_t place = s.offsets[v];
      // A filler is 0 whatever its scale.
      const int64_t row = place == kCopy ? 0
                          : by_column    ? place % spdf::kWindow
                                         : place / spdf::kMaxBlock;
      converter.write(copy[place], first_row + row, values.data(), v);
    }
  });
  return values;
}

// Moves what products read of a structure into the block of a weight; the rest is only
// for gathering and gradients.
void keep(const spdf_structure& made, const std::vector<uint8_t>& values,
          spdf_packed* packed) {
  const auto padded = [](const auto& items) {
    return spdf::Block::padded(items.size() * sizeof(items[0]));
  };
  packed->block = spdf::Block(padded(values) + padded(made.places) + padded(made.groups) +
                              padded(made.value_starts) + padded(made.place_starts) +
                              padded(made.group_starts));
  Structure& s = packed->structure = made.view;
  packed->values = packed->block.add(values);
  s.places = packed->block.add(made.places);
  s.groups = packed->block.add(made.groups);
  s.value_starts = packed->block.add(made.value_starts);
  s.place_starts = packed->block.add(made.place_starts);
  s.group_starts = packed->block.add(made.group_starts);
  s.offsets = nullptr;
}

void keep_dense(const Entries& entries, const Converter& converter, spdf_packed* packed) {
  const int64_t columns = packed->padded_columns =
      (packed->columns + spdf::kAlign - 1) / spdf::kAlign * spdf::kAlign;
  std::vector<uint8_t> values(packed->rows * columns * bytes_of(packed->type));
  for (int64_t line = 0; line < entries.kept().lines; ++line)
    entries.each(line, 0, entries.kept().length, [&](int64_t entry, float value) {
      const bool by_column = entries.source().by_column;
      const int64_t row = by_column ? entry : line, column = by_column ? line : entry;
      converter.write(value, row, values.data(), row * columns + column);
    });
  packed->block = spdf::Block(spdf::Block::padded(values.size()));
  packed->values = packed->block.add(values);
}

// Computes a product with dense rows, a few tokens at a time.
void dense_product(const spdf_packed& packed, const float* x, const float* bias,
                   int64_t tokens, float* y, spdf_parallel parallel, void* pool,
                   int64_t threads) {
  const int64_t columns = packed.padded_columns;
  const int64_t parts = std::max<int64_t>(1, std::min(threads, packed.rows));
  for (int64_t first = 0; first < tokens; first += spdf::kDenseTokens) {
    const int64_t here = std::min(spdf::kDenseTokens, tokens - first);
    float* in = scratch.get(here * columns);
    std::memset(in, 0, here * columns * sizeof(float));
    for (int64_t t = 0; t < here; ++t)
      std::copy_n(x + (first + t) * packed.columns, packed.columns, in + t * columns);
    float* out = y + first * packed.rows;
    run(parallel, pool, parts, [&](int64_t part) {
      const int64_t row = packed.rows * part / parts, last = packed.rows * (part + 1) / parts;
      spdf::widest_loops().dense[packed.type](packed.values, columns, row, last, in, here,
                                              out, packed.rows);
      for (int64_t t = 0; bias && t < here; ++t)
        for (int64_t r = row; r < last; ++r) out[t * packed.rows + r] += bias[r];
    });
  }
}

spdf_packed* packed_weight(const spdf_source& source, spdf_type type, int exact,
                           spdf_parallel parallel, void* pool) {
  const Entries entries(source);
  const Converter converter(entries, type);
  auto packed = std::make_unique<spdf_packed>();
  packed->rows = source.rows;
  packed->columns = source.columns;
  packed->type = type;
  packed->scales = converter.scales();
  if (type == SPDF_INT8 && !exact && spdf::expanding_loops()) {
    packed->expanding = std::make_unique<spdf::ExpandingWeight>(
        entries, [&](float value, int64_t row, int8_t* to) {
          converter.write(value, row, reinterpret_cast<uint8_t*>(to), 0);
        });
    return packed.release();
  }
  const double size = static_cast<double>(source.rows) * static_cast<double>(source.columns);
  if (type != SPDF_INT8 &&
      static_cast<double>(entries.kept().count()) > (1 - spdf::kLeastZeros) * size) {
    keep_dense(entries, converter, packed.get());
    return packed.release();
  }
  const int64_t row_stride = source.by_column ? 1 : source.columns;
  const int64_t column_stride = source.by_column ? source.rows : 1;
  const std::unique_ptr<spdf_structure> made =
      spdf::make_structure(entries.kept(), row_stride, column_stride, parallel, pool);
  keep(*made, gather(made->view, entries, type, converter, parallel, pool), packed.get());
  return packed.release();
}

}  // namespace

extern "C" {

spdf_packed* spdf_pack(const spdf_source* source, spdf_type type, int exact,
                       spdf_parallel parallel, void* pool, const char** reason) {
  const char* wrong = spdf::contradiction(*source);
  if (!wrong && (type < SPDF_FLOAT32 || type > SPDF_INT8))
    wrong = "Values are packed as float32, float16 or int8.";
  if (reason) *reason = wrong;
  if (wrong) return nullptr;
  try {
    return packed_weight(*source, type, exact, parallel, pool);
  } catch (const std::bad_alloc&) {
    if (reason) *reason = "There is not enough memory for a packed weight.";
    return nullptr;
  }
}

int spdf_rounds_inputs() { return spdf::expanding_loops() != nullptr; }

void spdf_packed_free(spdf_packed* packed) { delete packed; }

int64_t spdf_packed_rows(const spdf_packed* packed) { return packed->rows; }

int64_t spdf_packed_columns(const spdf_packed* packed) { return packed->columns; }

int64_t spdf_packed_bytes(const spdf_packed* packed) {
  size_t bytes = sizeof(*packed) + 4 * packed->scales.size() + packed->block.bytes();
  if (packed->expanding) bytes += packed->expanding->bytes();
  return static_cast<int64_t>(bytes);
}

void spdf_packed_product(const spdf_packed* packed, const float* x, const float* bias,
                         int64_t tokens, float* y, spdf_parallel parallel, void* pool,
                         int64_t threads) {
  if (packed->expanding) {
    packed->expanding->product(x, bias, packed->scales.data(), tokens, y, parallel, pool,
                               threads);
    return;
  }
  if (packed->padded_columns) {
    dense_product(*packed, x, bias, tokens, y, parallel, pool, threads);
    return;
  }
  spdf::product(packed->structure,
                {packed->type, packed->values,
                 packed->scales.empty() ? nullptr : packed->scales.data()},
                x, SPDF_FLOAT32, bias, tokens, y, parallel, pool, threads);
}

}
