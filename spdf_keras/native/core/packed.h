// Weights that are packed once, for products without gradients.
//
// The arrays of products are float32 with contiguous rows, as in sparse.h. The kept
// values of a weight may be float16, or int8 with a scale for each row. A weight is packed
// straight from what a file stores, without a dense copy.

#ifndef SPDF_PACKED_H_
#define SPDF_PACKED_H_

#include <stdint.h>

#include "sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spdf_packed spdf_packed;

// How values are stored. These are integers, as a damaged file may hold any other.
typedef int32_t spdf_type;
// Packed weights are not SPDF_BFLOAT16, which masked.h has.
enum { SPDF_FLOAT32 = 0, SPDF_FLOAT16 = 1, SPDF_INT8 = 2, SPDF_BFLOAT16 = 3 };

// How it is stored which entries are kept.
typedef int32_t spdf_code;
enum { SPDF_DENSE = 0, SPDF_BITS = 1, SPDF_CSR = 2 };

// A weight (rows, columns) as a file stores it. Zeroed fields mean: nothing of the kind.
typedef struct {
  int64_t rows, columns;
  // Whether entries lie column by column; CSR lies by row.
  int by_column;
  spdf_code code;
  spdf_type type;
  // The kept values in the order of the entries; for SPDF_DENSE, all rows * columns.
  const void* values;
  int64_t value_count;
  // Scales of int8 values: one, or one for each row.
  const float* scales;
  int64_t scale_count;
  // SPDF_BITS: a bit for each entry, 1 where a value is kept; the highest bit of a byte
  // is the first. Every line follows the one before it without a gap.
  const uint8_t* bits;
  int64_t bit_bytes;
  // SPDF_CSR: start of each row in `columns_of_values`, (rows + 1), and column of each
  // value, ascending within a row, (value_count).
  const int32_t* segments;
  const int32_t* value_columns;
} spdf_source;

// Packs a weight with values of a type. Returns NULL if the source contradicts itself, or
// the weight has 2^31 entries or more, and then sets `reason` to a sentence, which is
// never freed; `reason` may be NULL.
//
// If `exact` is 0, products may round their inputs to eight bits where this is faster,
// which only happens with int8 values.
spdf_packed* spdf_pack(const spdf_source* source, spdf_type type, int exact,
                       spdf_parallel parallel, void* pool, const char** reason);
void spdf_packed_free(spdf_packed* packed);

int64_t spdf_packed_rows(const spdf_packed* packed);
int64_t spdf_packed_columns(const spdf_packed* packed);
// Returns the bytes of memory that it takes.
int64_t spdf_packed_bytes(const spdf_packed* packed);

// Computes y = x @ weight.T + bias; x is (tokens, columns), y (tokens, rows), and `bias`
// may be NULL.
void spdf_packed_product(const spdf_packed* packed, const float* x, const float* bias,
                         int64_t tokens, float* y, spdf_parallel parallel, void* pool,
                         int64_t threads);

// Returns whether this processor has fast products of integers, which `spdf_pack` uses for
// int8 values unless products must be exact.
int spdf_rounds_inputs(void);

// Counts the entries that are not zero, without packing; -1 if the source contradicts
// itself.
int64_t spdf_kept(const spdf_source* source);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_PACKED_H_
