// Loops whose iterations run on several threads.

#ifndef SPDF_PARALLEL_H_
#define SPDF_PARALLEL_H_

#include <cstdint>

#include "sparse.h"

namespace spdf {

// Runs `body(i)` for every i in [0, count).
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

}  // namespace spdf

#endif  // SPDF_PARALLEL_H_
