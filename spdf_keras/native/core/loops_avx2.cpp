// The loops for AVX2, whose 16 registers hold four rows of two vectors.

#define SPDF_BYTES 32
#define SPDF_VECTORS 2
#define SPDF_NAME avx2_loops
#define SPDF_LABEL "avx2"
#include "kernels.h"
#define SPDF_DENSE_NAME avx2_dense_loops
#include "dense_loops.h"
