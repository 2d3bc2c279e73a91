"""Magnitude pruning: by a schedule, at once, or in the forward pass alone."""

from collections.abc import Sequence

from spdf_keras.sparsity.algorithms.base import SparsityMethod
from spdf_keras.sparsity.schedules import cubic, update_steps


class GMP(SparsityMethod):
    """Gradual magnitude pruning: the sparsity rises as a cubic from `begin` to `end`.

    Masks start at random with `initial_sparsity`, 0 by default.

    Reference:
        [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), section 3; tfmot's
        `PolynomialDecay` has the same steps. The defaults of `interval` and `end` are
        those of `SET`.
    """

    keeps_count = False

    @property
    def initial_sparsity(self) -> float:
        return self.config.initial_sparsity

    def update_steps(self) -> Sequence[int]:
        return update_steps(self.config.begin, self.end, self.config.interval)

    def sparsity_at(self, step: int) -> float:
        config = self.config
        if step < config.begin:
            return config.initial_sparsity
        return cubic(
            config.initial_sparsity, config.sparsity, step, config.begin, self.end
        )


class OneShot(SparsityMethod):
    """Prunes the smallest weights once, at step `begin`.

    With `begin` 0, it prunes the weights that the model starts from.
    """

    keeps_count = False

    @property
    def initial_sparsity(self) -> float:
        return 0.0

    def update_steps(self) -> Sequence[int]:
        return (self.config.begin,)

    def sparsity_at(self, step: int) -> float:
        return self.config.sparsity if step >= self.config.begin else 0.0


class MagnitudeSTE(GMP):
    """Multiplies by the largest weights alone, and trains all (straight through).

    Weights are *not* zero where masked, and moments are dense: the masks are those of
    the forward pass. They are chosen anew every `interval` steps from `begin` to the
    end of the training, at `sparsity` from the start. The last checkpoint of a run has
    exact zeros.

    Reference:
        [Bengio et al., 2013](https://arxiv.org/abs/1308.3432); JaxPruner's
        `MagnitudePruning` with a straight-through estimator chooses in every step
        (`interval=1`).
    """

    is_latent = True

    @property
    def end(self) -> int:
        return self.config.end or self.total_steps

    @property
    def initial_sparsity(self) -> float:
        return self.config.sparsity

    def sparsity_at(self, step: int) -> float:
        return self.config.sparsity
