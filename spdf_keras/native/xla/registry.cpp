// Packs kernels and masks, and keeps them by id.

#include "registry.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "job.h"
#include "structure.h"

namespace {

using spdf::Job;
using spdf::Mask;
using spdf::OwnedStructure;
using spdf::PackedWeight;

constexpr int32_t kDoesNotFit = 0;
constexpr int32_t kNoMemory = -1;

// An id names one of the two.
struct Entry {
  std::shared_ptr<const PackedWeight> weight;
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
}

bool is_kernel(int64_t in, int64_t out) {
  return in > 0 && out > 0 && in <= INT32_MAX / out;
}

// Returns a byte per entry; nothing if the number of bytes is not that of the shape.
std::vector<uint8_t> unpack_bits(const uint8_t* bits, int64_t num_bytes, int64_t in,
                                 int64_t out) {
  if (!bits || !is_kernel(in, out) || num_bytes != (in * out + 7) / 8) return {};
  std::vector<uint8_t> mask(in * out);
  for (int64_t i = 0; i < in * out; ++i) mask[i] = bits[i / 8] >> (7 - i % 8) & 1;
  return mask;
}

int32_t pack(const std::vector<uint8_t>& mask, const float* dense, int64_t in,
             int64_t out, int64_t threads) {
  auto weight = std::make_shared<PackedWeight>();
  weight->in = in;
  weight->out = out;
  weight->structure.reset(
      spdf_structure_create(mask.data(), out, in, 1, out, on_threads, &threads));
  if (!weight->structure) return kDoesNotFit;
  weight->values.resize(spdf_structure_size(weight->structure.get()));
  spdf_gather(weight->structure.get(), dense, weight->values.data(), on_threads, &threads);
  // Only gathering and gradients read the offsets.
  std::vector<uint16_t>().swap(weight->structure->offsets);
  weight->structure->view.offsets = nullptr;
  return add({weight, nullptr});
}

// Returns what `make` returns, and a number where it throws: no exception may leave C.
template <class Make>
int32_t guarded(const Make& make) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kDoesNotFit;
  }
}

template <class Item>
int64_t bytes(const std::vector<Item>& items) {
  return static_cast<int64_t>(items.size() * sizeof(Item));
}

int64_t bytes(const OwnedStructure& s) {
  return bytes(s->value_starts) + bytes(s->place_starts) + bytes(s->group_starts) +
         bytes(s->groups) + bytes(s->places) + bytes(s->offsets);
}

}  // namespace

std::shared_ptr<const PackedWeight> spdf::find_weight(int32_t id) {
  return find(id).weight;
}

std::shared_ptr<const Mask> spdf::find_mask(int32_t id) { return find(id).mask; }

#pragma GCC visibility push(default)
extern "C" {

int32_t spdf_xla_interface(void) { return SPDF_XLA_INTERFACE; }

int32_t spdf_xla_pack(const uint8_t* bits, int64_t num_bytes, const float* values,
                      int64_t count, int64_t in, int64_t out, int64_t threads) {
  return guarded([&]() -> int32_t {
    const std::vector<uint8_t> mask = unpack_bits(bits, num_bytes, in, out);
    if (mask.empty() || std::count(mask.begin(), mask.end(), 1) != count ||
        (count && !values))
      return kDoesNotFit;
    std::vector<float> dense(mask.size());
    for (size_t i = 0; i < mask.size(); ++i)
      if (mask[i]) dense[i] = *values++;
    return pack(mask, dense.data(), in, out, threads);
  });
}

int32_t spdf_xla_pack_dense(const float* kernel, int64_t in, int64_t out,
                            int64_t threads) {
  return guarded([&]() -> int32_t {
    if (!kernel || !is_kernel(in, out)) return kDoesNotFit;
    std::vector<uint8_t> mask(in * out);
    for (size_t i = 0; i < mask.size(); ++i) mask[i] = kernel[i] != 0.0f;
    return pack(mask, kernel, in, out, threads);
  });
}

int32_t spdf_xla_mask(const uint8_t* bits, int64_t num_bytes, int64_t in, int64_t out,
                      int64_t threads) {
  return guarded([&]() -> int32_t {
    const std::vector<uint8_t> bytes = unpack_bits(bits, num_bytes, in, out);
    if (bytes.empty()) return kDoesNotFit;
    auto mask = std::make_shared<Mask>();
    mask->in = in;
    mask->out = out;
    mask->forward.reset(
        spdf_structure_create(bytes.data(), out, in, 1, out, on_threads, &threads));
    mask->transposed.reset(
        spdf_structure_create(bytes.data(), in, out, out, 1, on_threads, &threads));
    if (!mask->forward || !mask->transposed) return kDoesNotFit;
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
  if (entry.weight) return bytes(entry.weight->structure) + bytes(entry.weight->values);
  if (entry.mask) return bytes(entry.mask->forward) + bytes(entry.mask->transposed);
  return 0;
}

}  // extern "C"
#pragma GCC visibility pop
