// Chunks of large pages.

#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>

namespace spdf {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;
// Address space of a chunk; only pages that are written take memory.
constexpr size_t kChunk = size_t{64} << 20;

}  // namespace

struct Chunk {
  explicit Chunk(size_t size) : mapped(size + kLargePage) {
    void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    start = static_cast<char*>(memory);
    const auto address = reinterpret_cast<uintptr_t>(start);
    next = start + (kLargePage - address % kLargePage) % kLargePage;
    end = next + size;
#if defined(MADV_HUGEPAGE)
    madvise(next, size, MADV_HUGEPAGE);  // where it fails, pages are small
#endif
  }
  ~Chunk() { munmap(start, mapped); }
  Chunk(const Chunk&) = delete;

  const size_t mapped;
  char *start, *next, *end;
};

Block::Block(size_t bytes) : bytes_(padded(bytes)) {
  static std::mutex mutex;
  static std::weak_ptr<Chunk> current;
  std::lock_guard<std::mutex> lock(mutex);
  chunk_ = current.lock();
  if (!chunk_ || chunk_->end - chunk_->next < static_cast<std::ptrdiff_t>(bytes_)) {
    chunk_ = std::make_shared<Chunk>(
        std::max(kChunk, (bytes_ + kLargePage - 1) / kLargePage * kLargePage));
    current = chunk_;
  }
  next_ = chunk_->next;
  chunk_->next += bytes_;
}

}  // namespace spdf
