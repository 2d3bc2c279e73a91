#define SPDF_BYTES 64
#define SPDF_VECTORS 4
#define SPDF_NAME avx512_loops
#define SPDF_LABEL "avx512"
#include "kernels.h"
