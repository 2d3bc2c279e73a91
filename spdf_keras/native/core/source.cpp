// Reads weights as files store them.

#include "source.h"

namespace spdf {
namespace {

int64_t line_count(const spdf_source& s) { return s.by_column ? s.columns : s.rows; }

const char* csr_contradiction(const spdf_source& s) {
  if (!s.segments || (!s.value_columns && s.value_count))
    return "CSR needs segments and columns.";
  if (s.by_column) return "CSR lies by row.";
  if (s.segments[0] != 0 || s.segments[s.rows] != s.value_count)
    return "The segments of a CSR weight must start at 0 and end at its number of values.";
  for (int64_t row = 0; row < s.rows; ++row)
    if (s.segments[row] > s.segments[row + 1])
      return "The segments of a CSR weight must not decrease.";
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t i = s.segments[row]; i < s.segments[row + 1]; ++i) {
      const int64_t column = s.value_columns[i];
      if (column < 0 || column >= s.columns ||
          (i > s.segments[row] && column <= s.value_columns[i - 1]))
        return "The columns of a CSR weight must ascend within each row and be below its "
               "number of columns.";
    }
  return nullptr;
}

const char* bits_contradiction(const spdf_source& s) {
  const int64_t size = s.rows * s.columns;
  if (!s.bits || s.bit_bytes != (size + 7) / 8)
    return "A bitmask needs one bit for each entry of the weight.";
  int64_t kept = 0;
  for (int64_t i = 0; i < s.bit_bytes; ++i) kept += __builtin_popcount(s.bits[i]);
  if (size % 8 && s.bits[s.bit_bytes - 1] & ((1 << (8 - size % 8)) - 1))
    return "The bits behind the last entry of a bitmask must be 0.";
  if (kept != s.value_count)
    return "A bitmask must have as many bits that are 1 as there are values.";
  return nullptr;
}

bool is_zero(const spdf_source& s, int64_t index) {
  switch (s.type) {
    case SPDF_FLOAT32: return static_cast<const float*>(s.values)[index] == 0;
    case SPDF_FLOAT16: return !(static_cast<const uint16_t*>(s.values)[index] & 0x7fff);
    default: return static_cast<const int8_t*>(s.values)[index] == 0;
  }
}

}  // namespace

const char* contradiction(const spdf_source& s) {
  if (s.rows < 1 || s.columns < 1 || s.rows > INT32_MAX / s.columns)
    return "A weight must have at least 1 entry and fewer than 2^31.";
  if (s.type < SPDF_FLOAT32 || s.type > SPDF_INT8)
    return "Values must be float32, float16 or int8.";
  if (s.value_count < 0 || (!s.values && s.value_count)) return "There are no values.";
  if (s.scale_count && (!s.scales || (s.scale_count != 1 && s.scale_count != s.rows)))
    return "A weight must have one scale, or one for each row.";
  switch (s.code) {
    case SPDF_DENSE:
      return s.value_count == s.rows * s.columns
                 ? nullptr
                 : "A dense weight must have a value for each entry.";
    case SPDF_BITS: return bits_contradiction(s);
    case SPDF_CSR: return csr_contradiction(s);
  }
  return "The code of a weight must be dense, bits or CSR.";
}

Entries::Entries(const spdf_source& source)
    : source_(source),
      kept_(line_count(source), source.rows * source.columns / line_count(source)) {
  const int64_t length = kept_.length;
  for (int64_t line = 0; line < kept_.lines; ++line) {
    uint64_t* word = kept_.line(line);
    switch (source.code) {
      case SPDF_DENSE:
        for (int64_t i = 0; i < length; ++i)
          word[i / 64] |= static_cast<uint64_t>(!is_zero(source, line * length + i))
                          << i % 64;
        break;
      case SPDF_BITS:
        for (int64_t i = 0, at = line * length; i < length; ++i, ++at)
          word[i / 64] |= static_cast<uint64_t>(source.bits[at / 8] >> (7 - at % 8) & 1)
                          << i % 64;
        break;
      case SPDF_CSR:
        for (int64_t i = source.segments[line]; i < source.segments[line + 1]; ++i)
          word[source.value_columns[i] / 64] |= uint64_t{1} << source.value_columns[i] % 64;
        break;
    }
  }
  if (source.code == SPDF_DENSE) return;
  starts_.push_back(0);
  for (int64_t line = 0; line < kept_.lines; ++line)
    starts_.push_back(starts_.back() +
                      static_cast<uint32_t>(kept_.count_before(line, length)));
}

int64_t Entries::value_index(int64_t line, int64_t entry) const {
  return starts_[line] + kept_.count_before(line, entry);
}

std::vector<float> Entries::scales() const {
  std::vector<float> scales(source_.rows, 1.0f);
  for (int64_t row = 0; source_.scale_count && row < source_.rows; ++row)
    scales[row] = source_.scales[source_.scale_count == 1 ? 0 : row];
  return scales;
}

}  // namespace spdf

extern "C" int64_t spdf_kept(const spdf_source* source) {
  if (spdf::contradiction(*source)) return -1;
  if (source->code != SPDF_DENSE) return source->value_count;
  int64_t kept = 0;
  for (int64_t i = 0; i < source->value_count; ++i)
    kept += !spdf::is_zero(*source, i);
  return kept;
}
