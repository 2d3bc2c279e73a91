// What lies between products, in plain C: GELU, and the sums that are gradients of biases.
// TensorFlow makes both of many passes over memory.

#ifndef SPDF_ELEMENTWISE_H_
#define SPDF_ELEMENTWISE_H_

#include <stdint.h>

#include "packed.h"
#include "sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

// All arrays of activations are SPDF_FLOAT32 or SPDF_BFLOAT16; they are computed in float32
// and rounded once.

// Computes GELU in the form with tanh.
void spdf_gelu(spdf_type type, const void* x, int64_t count, void* y,
               spdf_parallel parallel, void* pool);
// Multiplies dy by the derivative of GELU at x.
void spdf_gelu_gradient(spdf_type type, const void* x, const void* dy, int64_t count,
                        void* dx, spdf_parallel parallel, void* pool);
// Adds up the tokens of dy (tokens, columns).
void spdf_token_sums(spdf_type type, const void* dy, int64_t tokens, int64_t columns,
                     float* sums, spdf_parallel parallel, void* pool);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_ELEMENTWISE_H_
