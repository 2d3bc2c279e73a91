// Shares activations out to threads.

#include "elementwise.h"

#include <algorithm>
#include <type_traits>

#include "loops.h"
#include "parallel.h"

namespace {

// Numbers that a thread takes at a time, and columns that it adds up at a time.
constexpr int64_t kPart = 1 << 15, kColumns = 256;

int64_t bytes_of(spdf_type type) { return type == SPDF_BFLOAT16 ? 2 : 4; }

template <class Data>
Data* at(spdf_type type, Data* data, int64_t index) {
  using Byte = std::conditional_t<std::is_const_v<Data>, const char, char>;
  return static_cast<Byte*>(data) + index * bytes_of(type);
}

// Calls `body(first, count)` for all numbers.
template <class Body>
void for_parts(int64_t count, spdf_parallel parallel, void* pool, const Body& body) {
  spdf::run(parallel, pool, (count + kPart - 1) / kPart, [&](int64_t part) {
    body(part * kPart, std::min(kPart, count - part * kPart));
  });
}

}  // namespace

extern "C" {

void spdf_gelu(spdf_type type, const void* x, int64_t count, void* y,
               spdf_parallel parallel, void* pool) {
  for_parts(count, parallel, pool, [&](int64_t first, int64_t own) {
    spdf::widest_loops().gelu(type, at(type, x, first), own, at(type, y, first));
  });
}

void spdf_gelu_gradient(spdf_type type, const void* x, const void* dy, int64_t count,
                        void* dx, spdf_parallel parallel, void* pool) {
  for_parts(count, parallel, pool, [&](int64_t first, int64_t own) {
    spdf::widest_loops().gelu_gradient(type, at(type, x, first), at(type, dy, first), own,
                                       at(type, dx, first));
  });
}

void spdf_token_sums(spdf_type type, const void* dy, int64_t tokens, int64_t columns,
                     float* sums, spdf_parallel parallel, void* pool) {
  spdf::run(parallel, pool, (columns + kColumns - 1) / kColumns, [&](int64_t part) {
    const int64_t first = part * kColumns;
    spdf::widest_loops().token_sums(type, at(type, dy, first), tokens, columns,
                                    std::min(kColumns, columns - first), sums + first);
  });
}

}
