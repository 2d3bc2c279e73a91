// The options of the delegate, as `load_delegate(path, options)` takes them.

#ifndef SPDF_OPTIONS_H_
#define SPDF_OPTIONS_H_

#include <cstddef>
#include <string>

namespace spdf {

struct Options {
  // Layers with a smaller fraction of zeros are left to the runtime. -1 is the fraction at
  // which skipping was measured to pay for the type of the weight.
  double min_sparsity = -1;
  // Threads; 0 is the number that the interpreter was made with.
  int num_threads = 0;
  // Type of the packed values: auto (as in the file), float32, float16 or int8.
  std::string format = "auto";
  // Whether products with int8 values may round their inputs to eight bits, as the runtime
  // does for such files.
  bool round_inputs = true;
  // Whether layers of a single token without zeros, such as the projection to the
  // vocabulary, are taken too: signatures then share their weight.
  bool dense = true;
  // Times that an idle worker looks for work before it sleeps.
  int spins = 2000;
  // Whether pages of a mapped file are given back once their weights are packed.
  bool release_pages = true;
  // Whether indices that the runtime unpacked for itself are freed.
  bool release_index = true;
  // Whether a runtime is accepted whose version was not tested.
  bool any_version = false;
  // Whether the delegate writes what it does to standard error.
  bool verbose = false;
};

// Reads the options; returns an empty string, or a sentence that says what is wrong.
std::string read_options(const char* const* keys, const char* const* values, size_t count,
                         Options* options);

}  // namespace spdf

#endif  // SPDF_OPTIONS_H_
