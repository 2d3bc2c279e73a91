// The loops for AVX-512, whose 32 registers hold four rows of four vectors.

#define SPDF_BYTES 64
#define SPDF_VECTORS 4
#define SPDF_NAME avx512_loops
#define SPDF_LABEL "avx512"
#include "kernels.h"
#define SPDF_DENSE_NAME avx512_dense_loops
#include "dense_loops.h"
