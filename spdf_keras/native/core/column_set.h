// What building structures shares: sets of columns of a block, and joining regions.

#ifndef SPDF_COLUMN_SET_H_
#define SPDF_COLUMN_SET_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "loops.h"

namespace spdf {

// A set of columns of a block.
struct Columns {
  uint64_t words[kMaxBlock / 64] = {};

  void insert(int64_t k) { words[k / 64] |= uint64_t{1} << k % 64; }
  int count() const {
    int sum = 0;
    for (uint64_t word : words) sum += __builtin_popcountll(word);
    return sum;
  }
  Columns shared(const Columns& other) const {
    Columns both;
    for (size_t i = 0; i < std::size(words); ++i)
      both.words[i] = words[i] & other.words[i];
    return both;
  }
  // Removes and returns the first column, or returns -1 if there is none.
  int take() {
    for (size_t i = 0; i < std::size(words); ++i)
      if (words[i]) {
        const int bit = __builtin_ctzll(words[i]);
        words[i] &= words[i] - 1;
        return static_cast<int>(64 * i) + bit;
      }
    return -1;
  }
  void remove(int64_t k) { words[k / 64] &= ~(uint64_t{1} << k % 64); }
};

// Concatenates an array of all regions; returns the start of each region, and the end.
template <class Region, class Item>
std::vector<uint32_t> join(std::vector<Region>& regions,
                           std::vector<Item> Region::* member, std::vector<Item>* all) {
  std::vector<uint32_t> starts{0};
  for (const Region& region : regions)
    starts.push_back(starts.back() + static_cast<uint32_t>((region.*member).size()));
  all->reserve(starts.back());
  for (Region& region : regions) {
    all->insert(all->end(), (region.*member).begin(), (region.*member).end());
    std::vector<Item>().swap(region.*member);
  }
  return starts;
}

}  // namespace spdf

#endif  // SPDF_COLUMN_SET_H_
