// Reads the options of the delegate.

#include "options.h"

#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>

namespace spdf {
namespace {

// Reads a value, or returns what it must be.
using Reader = std::function<std::string(const std::string& value)>;

Reader number(double low, double high, double* target) {
  return [=](const std::string& value) -> std::string {
    char* end = nullptr;
    const double read = std::strtod(value.c_str(), &end);
    if (value.empty() || *end || !(low <= read && read <= high))
      return "a number from " + std::to_string(low) + " to " + std::to_string(high);
    *target = read;
    return "";
  };
}

Reader integer(int high, int* target) {
  return [=](const std::string& value) -> std::string {
    char* end = nullptr;
    const long read = std::strtol(value.c_str(), &end, 10);
    if (value.empty() || *end || read < 0 || read > high)
      return "an integer from 0 to " + std::to_string(high);
    *target = static_cast<int>(read);
    return "";
  };
}

Reader boolean(bool* target) {
  return [=](const std::string& value) -> std::string {
    const bool yes = value == "1" || value == "true" || value == "True";
    if (!yes && value != "0" && value != "false" && value != "False") return "0 or 1";
    *target = yes;
    return "";
  };
}

}  // namespace

std::string read_options(const char* const* keys, const char* const* values, size_t count,
                         Options* o) {
  const std::map<std::string, Reader> readers{
      {"min_sparsity", number(0, 1, &o->min_sparsity)},
      {"num_threads", integer(1024, &o->num_threads)},
      {"format",
       [o](const std::string& value) -> std::string {
         if (value != "auto" && value != "float32" && value != "float16" && value != "int8")
           return "auto, float32, float16 or int8";
         o->format = value;
         return "";
       }},
      {"round_inputs", boolean(&o->round_inputs)},
      {"dense", boolean(&o->dense)},
      {"spins", integer(1 << 30, &o->spins)},
      {"release_pages", boolean(&o->release_pages)},
      {"release_index", boolean(&o->release_index)},
      {"any_version", boolean(&o->any_version)},
      {"verbose", boolean(&o->verbose)},
  };
  for (size_t i = 0; i < count; ++i) {
    const auto reader = readers.find(keys[i]);
    if (reader == readers.end()) {
      std::string known;
      for (const auto& [name, unused] : readers) known += (known.empty() ? "" : ", ") + name;
      return std::string("There is no option '") + keys[i] + "' of the spdf delegate. It has " +
             known + ".";
    }
    const std::string must = reader->second(values[i]);
    if (!must.empty())
      return std::string("The option '") + keys[i] + "' of the spdf delegate must be " + must +
             ". Received: " + values[i] + ".";
  }
  return "";
}

}  // namespace spdf
