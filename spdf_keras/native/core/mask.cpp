// Masks, and kept values in the order of rows.

#include "mask.h"

#include <algorithm>

#include "parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using spdf::run;

// Rows are shared out to threads in parts of this many.
constexpr int64_t kRows = 16;

template <class Body>
void for_rows(const spdf_mask& mask, spdf_parallel parallel, void* pool, const Body& body) {
  run(parallel, pool, (mask.in() + kRows - 1) / kRows, [&](int64_t part) {
    const int64_t end = std::min(mask.in(), (part + 1) * kRows);
    for (int64_t row = part * kRows; row < end; ++row) body(row);
  });
}

template <class Item>
int64_t bytes_of(const std::vector<Item>& items) {
  return static_cast<int64_t>(items.size() * sizeof(Item));
}

#if defined(__x86_64__)
const bool has_avx512 = __builtin_cpu_supports("avx512f");

// Values are compressed in a register: compressing to memory is slow microcode on Zen 4.
__attribute__((target("avx512f"))) float* compress_avx512(uint64_t word, const float* entries,
                                                          float* kept) {
  for (; word; word >>= 16, entries += 16) {
    const auto mask = static_cast<__mmask16>(word);
    const int count = __builtin_popcount(mask);
    const __m512 values = _mm512_maskz_loadu_ps(mask, entries);
    _mm512_mask_storeu_ps(kept, static_cast<__mmask16>((1u << count) - 1),
                          _mm512_maskz_compress_ps(mask, values));
    kept += count;
  }
  return kept;
}

__attribute__((target("avx512f"))) const float* expand_avx512(uint64_t word,
                                                              const float* kept,
                                                              int64_t count,
                                                              float* entries) {
  for (int64_t i = 0; i < count; i += 16, word >>= 16) {
    const auto mask = static_cast<__mmask16>(word);
    const int own = __builtin_popcount(mask);
    const __m512 values =
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << own) - 1), kept);
    const auto there = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(entries + i, there, _mm512_maskz_expand_ps(mask, values));
    kept += own;
  }
  return kept;
}
#endif

}  // namespace

namespace spdf {

float* compress(uint64_t word, const float* entries, float* kept) {
#if defined(__x86_64__)
  if (has_avx512) return compress_avx512(word, entries, kept);
#endif
  for (; word; word &= word - 1) *kept++ = entries[__builtin_ctzll(word)];
  return kept;
}

const float* expand(uint64_t word, const float* kept, int64_t count, float* entries) {
#if defined(__x86_64__)
  if (has_avx512) return expand_avx512(word, kept, count, entries);
#endif
  std::fill_n(entries, count, 0.0f);
  for (; word; word &= word - 1) entries[__builtin_ctzll(word)] = *kept++;
  return kept;
}

}  // namespace spdf

const spdf_structure& spdf_mask::forward(spdf_parallel parallel, void* pool) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!forward_) forward_ = spdf::make_structure(bits, 1, out(), parallel, pool);
  return *forward_;
}

const spdf_structure& spdf_mask::backward(spdf_parallel parallel, void* pool) const {
  std::lock_guard<std::mutex> lock(mutex_);
  // Strides only say here that lines are rows, which a stride of 1 would not.
  const int64_t stride = std::max<int64_t>(out(), 2);
  if (!backward_) backward_ = spdf::make_structure(bits, stride, 1, parallel, pool);
  return *backward_;
}

const spdf::PairedStructure& spdf_mask::paired_forward(spdf_parallel parallel,
                                                       void* pool) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!paired_forward_) paired_forward_ = spdf::make_paired(bits, true, parallel, pool);
  return *paired_forward_;
}

const spdf::PairedStructure& spdf_mask::paired_backward(spdf_parallel parallel,
                                                        void* pool) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!paired_backward_) paired_backward_ = spdf::make_paired(bits, false, parallel, pool);
  return *paired_backward_;
}

int64_t spdf_mask::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t sum = bytes_of(bits.bits) + bytes_of(starts);
  for (const spdf_structure* s : {forward_.get(), backward_.get()})
    if (s)
      sum += bytes_of(s->value_starts) + bytes_of(s->place_starts) +
             bytes_of(s->group_starts) + bytes_of(s->groups) + bytes_of(s->places) +
             bytes_of(s->offsets);
  for (const spdf::PairedStructure* s : {paired_forward_.get(), paired_backward_.get()})
    if (s)
      sum += bytes_of(s->step_starts) + bytes_of(s->place_starts) +
             bytes_of(s->group_starts) + bytes_of(s->groups) + bytes_of(s->places) +
             bytes_of(s->offsets) + bytes_of(s->line_starts);
  return sum;
}

extern "C" {

spdf_mask* spdf_mask_create(const uint8_t* mask, int64_t in, int64_t out,
                            spdf_parallel parallel, void* pool) {
  if (!mask || in < 1 || out < 1 || in > INT32_MAX / out) return nullptr;
  auto* made = new spdf_mask(in, out);
  for_rows(*made, parallel, pool, [&](int64_t row) {
    const uint8_t* entry = mask + row * out;
    uint64_t* word = made->bits.line(row);
    for (int64_t i = 0; i < out; ++i)
      word[i / 64] |= static_cast<uint64_t>(entry[i] != 0) << i % 64;
  });
  made->starts.reserve(made->bits.bits.size() + 1);
  uint32_t sum = 0;
  for (uint64_t word : made->bits.bits) {
    made->starts.push_back(sum);
    sum += static_cast<uint32_t>(__builtin_popcountll(word));
  }
  made->starts.push_back(sum);
  return made;
}

void spdf_mask_free(spdf_mask* mask) { delete mask; }
int64_t spdf_mask_in(const spdf_mask* mask) { return mask->in(); }
int64_t spdf_mask_out(const spdf_mask* mask) { return mask->out(); }
int64_t spdf_mask_kept(const spdf_mask* mask) { return mask->kept(); }

void spdf_keep(const spdf_mask* mask, const float* kernel, float* kept,
               spdf_parallel parallel, void* pool) {
  for_rows(*mask, parallel, pool, [&](int64_t row) {
    float* to = kept + mask->start(row, 0);
    for (int64_t word = 0; word < mask->bits.words; ++word)
      to = spdf::compress(mask->bits.line(row)[word], kernel + row * mask->out() + word * 64,
                          to);
  });
}

void spdf_spread(const spdf_mask* mask, const float* kept, float* kernel,
                 spdf_parallel parallel, void* pool) {
  for_rows(*mask, parallel, pool, [&](int64_t row) {
    const float* from = kept + mask->start(row, 0);
    for (int64_t column = 0; column < mask->out(); column += 64)
      from = spdf::expand(mask->bits.line(row)[column / 64], from,
                          std::min<int64_t>(64, mask->out() - column),
                          kernel + row * mask->out() + column);
  });
}

}
