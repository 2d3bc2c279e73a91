// A masked kernel in a training step, in plain C: its kept values are taken once, laid out
// once, and multiplied by many batches; gradients come back in the order of the kept
// values.
//
// A kernel (in, out) has contiguous rows; its kept values are in the order of its rows.
// x is (tokens, in), y = x @ kernel + bias is (tokens, out), all with contiguous rows.
// x, y and their gradients are of the layout's type; kept values, biases and the gradient
// of kept values are float32, and so are sums.

#ifndef SPDF_MASKED_H_
#define SPDF_MASKED_H_

#include <stdint.h>

#include "packed.h"
#include "sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spdf_mask spdf_mask;
typedef struct spdf_layout spdf_layout;

// Reads a mask (in, out), whose entries are 0 or 1. Returns NULL if a size is not positive
// or the mask has 2^31 entries or more.
spdf_mask* spdf_mask_create(const uint8_t* mask, int64_t in, int64_t out,
                            spdf_parallel parallel, void* pool);
void spdf_mask_free(spdf_mask* mask);
int64_t spdf_mask_in(const spdf_mask* mask);
int64_t spdf_mask_out(const spdf_mask* mask);
// Returns the number of kept entries.
int64_t spdf_mask_kept(const spdf_mask* mask);

// Copies the kept entries of a kernel to `kept`.
void spdf_keep(const spdf_mask* mask, const float* kernel, float* kept,
               spdf_parallel parallel, void* pool);
// Writes a kernel with zeros between its kept values.
void spdf_spread(const spdf_mask* mask, const float* kept, float* kernel,
                 spdf_parallel parallel, void* pool);

// Lays kept values out for products in SPDF_FLOAT32 or SPDF_BFLOAT16, or returns NULL for
// another type. The mask must outlive the layout. `uses` is a sum of what the layout is
// for.
enum { SPDF_PRODUCT = 1, SPDF_GRADIENTS = 2 };
spdf_layout* spdf_lay_out(const spdf_mask* mask, const float* kept, spdf_type type,
                          int uses, spdf_parallel parallel, void* pool);
void spdf_layout_free(spdf_layout* layout);

// Computes y = x @ kernel + bias; `bias` may be NULL.
void spdf_layout_product(const spdf_layout* layout, const void* x, const float* bias,
                 int64_t tokens, void* y, spdf_parallel parallel, void* pool,
                 int64_t threads);

// Computes the gradients of spdf_layout_product: dx (tokens, in), and that of the kept values.
void spdf_layout_gradients(const spdf_layout* layout, const void* x, const void* dy,
                           int64_t tokens, void* dx, float* gradient,
                           spdf_parallel parallel, void* pool, int64_t threads);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_MASKED_H_
