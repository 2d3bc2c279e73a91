// A structure together with the arrays that it points to.

#ifndef SPDF_STRUCTURE_H_
#define SPDF_STRUCTURE_H_

#include <vector>

#include "loops.h"

struct spdf_structure {
  spdf::Structure view;
  std::vector<uint32_t> value_starts, place_starts, group_starts;
  std::vector<spdf::Group> groups;
  std::vector<uint8_t> places;
  std::vector<uint16_t> offsets;
};

#endif  // SPDF_STRUCTURE_H_
