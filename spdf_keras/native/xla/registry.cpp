// Packs kernels and masks, and keeps them by id.

#include "registry.h"

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "job.h"
#include "mask.h"

namespace {

using spdf::Job;
using spdf::Mask;

// An id names one of the two.
struct Entry {
  std::shared_ptr<const spdf_packed> kernel;
  std::shared_ptr<const Mask> mask;
};

// The map is never destroyed: a program may run while the process ends.
std::mutex& mutex() {
  static auto* made = new std::mutex;
  return *made;
}
std::map<int32_t, Entry>& entries() {
  static auto* made = new std::map<int32_t, Entry>;
  return *made;
}

int32_t add(Entry entry) {
  static int32_t last = 0;
  std::lock_guard<std::mutex> lock(mutex());
  entries()[++last] = std::move(entry);
  return last;
}

Entry find(int32_t id) {
  std::lock_guard<std::mutex> lock(mutex());
  const auto found = entries().find(id);
  return found == entries().end() ? Entry{} : found->second;
}

// Runs a loop on threads of its own, for the time before a program runs.
void on_threads(void* threads, int64_t count, void (*body)(void*, int64_t),
                void* argument) {
  const int64_t wanted = std::min(*static_cast<int64_t*>(threads), count);
  Job job(count, body, argument);
  std::vector<std::thread> helpers;
  try {
    for (int64_t i = 1; i < wanted; ++i) helpers.emplace_back([&job] { job.take(); });
  } catch (const std::system_error&) {
    // The system gives no further thread; those that there are do the work.
  }
  job.take();
  for (std::thread& helper : helpers) helper.join();
  job.rethrow();
}

int32_t add_kernel(const spdf_source& source, int64_t threads, const char** reason) {
  spdf_packed* packed =
      spdf_pack(&source, SPDF_FLOAT32, 1, on_threads, &threads, reason);
  return packed ? add({{packed, spdf_packed_free}, nullptr}) : 0;
}

// Returns what `make` returns, or 0 if there is no memory: no exception may leave C.
template <class Make>
int32_t guarded(const char** reason, const Make& make) {
  try {
    return make();
  } catch (const std::exception&) {
    *reason = "There is not enough memory.";
    return 0;
  }
}

}  // namespace

std::shared_ptr<const spdf_packed> spdf::find_kernel(int32_t id) {
  return find(id).kernel;
}

std::shared_ptr<const Mask> spdf::find_mask(int32_t id) { return find(id).mask; }

#pragma GCC visibility push(default)
extern "C" {

int32_t spdf_xla_interface(void) { return SPDF_XLA_INTERFACE; }

int32_t spdf_xla_pack(const uint8_t* bits, int64_t num_bytes, const float* values,
                      int64_t count, int64_t in, int64_t out, int64_t threads,
                      const char** reason) {
  return guarded(reason, [&] {
    spdf_source source{};
    source.rows = out;
    source.columns = in;
    source.by_column = 1;
    source.code = SPDF_BITS;
    source.values = values;
    source.value_count = count;
    source.bits = bits;
    source.bit_bytes = num_bytes;
    return add_kernel(source, threads, reason);
  });
}

int32_t spdf_xla_pack_dense(const float* kernel, int64_t in, int64_t out,
                            int64_t threads, const char** reason) {
  return guarded(reason, [&] {
    spdf_source source{};
    source.rows = out;
    source.columns = in;
    source.by_column = 1;
    source.values = kernel;
    source.value_count = in > 0 && out > 0 && in <= INT32_MAX / out ? in * out : 0;
    return add_kernel(source, threads, reason);
  });
}

int32_t spdf_xla_mask(const uint8_t* bits, int64_t num_bytes, int64_t in, int64_t out,
                      int64_t threads, const char** reason) {
  return guarded(reason, [&]() -> int32_t {
    if (in < 1 || out < 1 || in > INT32_MAX / out || num_bytes != (in * out + 7) / 8) {
      *reason = "The bits do not fit the shape.";
      return 0;
    }
    std::vector<uint8_t> kept(in * out);
    for (int64_t i = 0; i < in * out; ++i) kept[i] = bits[i / 8] >> (7 - i % 8) & 1;
    const std::shared_ptr<const Mask> mask(
        spdf_mask_create(kept.data(), in, out, on_threads, &threads),
        [](const Mask* made) { spdf_mask_free(const_cast<Mask*>(made)); });
    // Both are built now, since a program runs on other threads.
    mask->forward(on_threads, &threads);
    mask->backward(on_threads, &threads);
    return add({nullptr, mask});
  });
}

void spdf_xla_remove(int32_t id) {
  Entry removed;  // its memory is freed after the lock
  std::lock_guard<std::mutex> lock(mutex());
  const auto found = entries().find(id);
  if (found == entries().end()) return;
  removed = std::move(found->second);
  entries().erase(found);
}

int64_t spdf_xla_bytes(int32_t id) {
  const Entry entry = find(id);
  if (entry.kernel) return spdf_packed_bytes(entry.kernel.get());
  if (entry.mask) return entry.mask->bytes();
  return 0;
}

}  // extern "C"
#pragma GCC visibility pop
