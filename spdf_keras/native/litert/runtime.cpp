// Checks the version of the runtime, and the layout of its structures.

#include "runtime.h"

#include <dirent.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace spdf {
namespace {

// A Python package whose versions up to `major.minor` were tested.
struct Tested {
  const char* package;
  const char* name;
  int first_major, first_minor, major, minor;
};
constexpr Tested kTested[] = {{"/ai_edge_litert/", "ai_edge_litert", 2, 3, 2, 3},
                              {"/tensorflow/", "tensorflow", 2, 21, 2, 21}};

// Finds the version of a package by its folder `NAME-VERSION.dist-info`.
bool find_version(const std::string& folder, const char* name, int* major, int* minor) {
  DIR* entries = opendir(folder.c_str());
  if (!entries) return false;
  bool found = false;
  const std::string prefix = std::string(name) + "-";
  while (const dirent* entry = readdir(entries)) {
    const std::string file = entry->d_name;
    if (file.rfind(prefix, 0) == 0 && file.find(".dist-info") != std::string::npos)
      found = std::sscanf(file.c_str() + prefix.size(), "%d.%d", major, minor) == 2;
    if (found) break;
  }
  closedir(entries);
  return found;
}

std::string version_refusal(TfLiteContext* context) {
  Dl_info library;
  if (!dladdr(reinterpret_cast<void*>(context->GetExecutionPlan), &library) ||
      !library.dli_fname)
    return "";
  const std::string path = library.dli_fname;
  for (const Tested& tested : kTested) {
    const size_t at = path.rfind(tested.package);
    int major, minor;
    if (at == std::string::npos ||
        !find_version(path.substr(0, at), tested.name, &major, &minor))
      continue;
    const int version = 1000 * major + minor;
    if (version < 1000 * tested.first_major + tested.first_minor ||
        version > 1000 * tested.major + tested.minor)
      return std::string("The delegate was tested with ") + tested.name + " " +
             std::to_string(tested.first_major) + "." + std::to_string(tested.first_minor) +
             " to " + std::to_string(tested.major) + "." + std::to_string(tested.minor) +
             ". Received: " + std::to_string(major) + "." + std::to_string(minor) +
             ". Install a tested version, or load the delegate with any_version=1.";
  }
  return "";
}

// Returns the bytes of a number, or 0 for a type that is not checked.
size_t bytes_of(TfLiteType type) {
  switch (type) {
    case kTfLiteFloat32:
    case kTfLiteInt32: return 4;
    case kTfLiteFloat16: return 2;
    case kTfLiteInt8: return 1;
    default: return 0;
  }
}

// Whether the tensors look as abi.h says: a constant has as many bytes as its shape.
bool layout_fits(TfLiteContext* context) {
  constexpr size_t kMostTensors = size_t{1} << 24;
  constexpr int kMostDims = 16;
  if (context->tensors_size > kMostTensors || !context->tensors) return false;
  for (size_t i = 0; i < context->tensors_size; ++i) {
    const TfLiteTensor& t = context->tensors[i];
    if (t.type < 0 || t.type > 64 || t.allocation_type < 0 || t.allocation_type > 16)
      return false;
    if (t.allocation_type != kTfLiteMmapRo || !bytes_of(t.type) || t.sparsity || !t.dims)
      continue;
    if (t.dims->size < 0 || t.dims->size > kMostDims || !t.name) return false;
    size_t size = bytes_of(t.type);
    for (int d = 0; d < t.dims->size; ++d) size *= static_cast<size_t>(t.dims->data[d]);
    if (size != t.bytes) return false;
  }
  return true;
}

}  // namespace

std::string refusal(TfLiteContext* context, bool any_version) {
  if (!any_version) {
    const std::string refused = version_refusal(context);
    if (!refused.empty()) return refused;
  }
  if (!layout_fits(context))
    return "The structures of this runtime do not look as the delegate knows them, so it "
           "takes nothing; use another version of the runtime, or none of the delegate.";
  return "";
}

}  // namespace spdf
