// One step of AdamW for the kept weights of a kernel, in plain C.

#ifndef SPDF_ADAMW_H_
#define SPDF_ADAMW_H_

#include <stdint.h>

#include "sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

// The scalars of a step; `Move` in update.py says what each of them means.
typedef struct {
  float factor, shrink, beta_1, beta_2, alpha, epsilon;
} spdf_move;

// Weights that grew together count their own steps: `of` has the cohort of each moment,
// and the tables have alpha and epsilon of each of `count` cohorts.
typedef struct {
  const uint16_t* of;
  const float* alphas;
  const float* epsilons;
  int64_t count;
} spdf_cohorts;

// Returns the largest of `packed` cohorts; 0 if there is none.
uint16_t spdf_largest_cohort(const spdf_cohorts* cohorts, int64_t packed);

// Moves `count` weights in place, by their cohorts unless `cohorts` is NULL. `mask` has a byte for each of them, and weights of mask 0
// are neither read nor written; NULL keeps all. `gradient`, `m` and `v` are packed: they
// have an entry for each kept weight, in the same order. Returns the number of kept
// weights; unless it is `packed`, nothing was changed.
int64_t spdf_adamw(const spdf_move* move, const spdf_cohorts* cohorts,
                   const uint8_t* mask, int64_t count, int64_t packed,
                   const float* gradient, float* weights, float* m, float* v,
                   spdf_parallel parallel, void* pool);

#ifdef __cplusplus
}
#endif

#endif  // SPDF_ADAMW_H_
