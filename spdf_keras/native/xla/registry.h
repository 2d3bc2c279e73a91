// Kernels that a process has packed, by the ids that programs name them with.
//
// A program that skips zeros takes an int32 id in place of a kernel or its mask. It
// therefore knows neither the number of kept weights nor how they are packed.

#ifndef SPDF_XLA_REGISTRY_H_
#define SPDF_XLA_REGISTRY_H_

#include <cstdint>

#ifdef __cplusplus
#include <memory>

#include "masked.h"
#include "packed.h"

namespace spdf {

// The mask of a kernel `(in, out)` whose values change from call to call.
using Mask = spdf_mask;

// Return what an id names, or nothing where it names nothing of this kind. The pointer
// keeps it alive, so that another thread may remove the id meanwhile.
std::shared_ptr<const spdf_packed> find_kernel(int32_t id);
std::shared_ptr<const Mask> find_mask(int32_t id);

}  // namespace spdf

extern "C" {
#endif

// Number of this interface: of these functions, and of the calls in programs. An artefact
// names the number that its programs need.
#define SPDF_XLA_INTERFACE 1

int32_t spdf_xla_interface(void);

// The functions below return an id above 0. They return 0 if the arguments contradict each
// other or there is no memory, and then set `reason` to a sentence, which is never freed.
// `threads` is the largest number of threads.
//
// `bits` has a bit for each entry of the kernel `(in, out)`, 1 where it is kept, in the
// order of rows, the highest bit of a byte first.

// Packs a kernel from bits and its `count` kept values in order.
int32_t spdf_xla_pack(const uint8_t* bits, int64_t num_bytes, const float* values,
                      int64_t count, int64_t in, int64_t out, int64_t threads,
                      const char** reason);
// Packs a dense kernel; entries that are 0 are skipped.
int32_t spdf_xla_pack_dense(const float* kernel, int64_t in, int64_t out,
                            int64_t threads, const char** reason);
// Prepares a mask for training.
int32_t spdf_xla_mask(const uint8_t* bits, int64_t num_bytes, int64_t in, int64_t out,
                      int64_t threads, const char** reason);

// Forgets an id; a call that runs meanwhile ends as usual. Other ids are ignored.
void spdf_xla_remove(int32_t id);
// Returns the bytes of memory behind an id; 0 for other ids.
int64_t spdf_xla_bytes(int32_t id);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_XLA_REGISTRY_H_
