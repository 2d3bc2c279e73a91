// Memory for arrays that products stream: large pages, filled side by side.

#ifndef SPDF_BLOCK_H_
#define SPDF_BLOCK_H_

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

namespace spdf {

struct Chunk;

// A block of memory. Blocks lie side by side in chunks of large pages, since translating
// addresses of small pages takes a third of the time that reading a weight takes. A chunk
// is freed with the last of its blocks.
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes);
  Block(Block&&) = default;
  Block& operator=(Block&&) = default;

  // Copies an array to the next 64-byte boundary of the block.
  template <class Item>
  const Item* add(const std::vector<Item>& items) {
    auto* copy = reinterpret_cast<Item*>(next_);
    std::memcpy(copy, items.data(), items.size() * sizeof(Item));
    next_ += padded(items.size() * sizeof(Item));
    return copy;
  }

  size_t bytes() const { return bytes_; }

  // Returns the bytes that an array takes.
  static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  std::shared_ptr<Chunk> chunk_;
  char* next_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace spdf

#endif  // SPDF_BLOCK_H_
