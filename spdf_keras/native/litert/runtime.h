// Whether the runtime that loads the delegate is one that the delegate knows.

#ifndef SPDF_RUNTIME_H_
#define SPDF_RUNTIME_H_

#include <string>

#include "abi.h"

namespace spdf {

// Returns an empty string, or a sentence that says why the runtime is refused.
//
// A runtime from a Python package is known by the version of the package. Others, as on a
// phone, do not tell their version; then and otherwise the graph must look as the
// structures of abi.h say.
std::string refusal(TfLiteContext* context, bool any_version);

}  // namespace spdf

#endif  // SPDF_RUNTIME_H_
