// The loops for processors without AVX2: 16 bytes are SSE's or NEON's registers.

#define SPDF_BYTES 16
#define SPDF_VECTORS 4
#define SPDF_NAME portable_loops
#define SPDF_LABEL "portable"
#include "kernels.h"
#define SPDF_DENSE_NAME portable_dense_loops
#include "dense_loops.h"
