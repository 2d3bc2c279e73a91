"""Pre-trainings that took equally many operations."""

from collections.abc import Sequence
from dataclasses import dataclass

from spdf_keras.report.runs.groups import Group, pretraining_flops

# Totals that differ by no more than this are called equal.
TOLERANCE = 0.03


@dataclass(frozen=True)
class Candidate:
    """A way to spend operations: a pre-training of some seeds, and its scores.

    Attributes:
        flops: Mean operations of the pre-training, zeros skipped.
        pretraining: Its runs; None if they are not in the report.
        evaluations: Its groups of evaluations after dense fine-tuning, by task.
    """

    flops: float
    pretraining: Group | None
    evaluations: dict[str, Group]

    @property
    def group(self) -> Group:
        """A group that names it."""
        return self.pretraining or next(iter(self.evaluations.values()))


def equal_operations(
    pretraining: Sequence[Group], evaluations: Sequence[Group]
) -> list[list[Candidate]]:
    """Puts ways together whose operations agree, whatever their size and sparsity.

    Args:
        pretraining: Groups of pre-trainings.
        evaluations: Groups of evaluations, of one split per task.

    Returns:
        Lists of two or more, the cheapest first. Evaluations under other decoding
        settings, or points of a search, are left out: a way has one per task.
    """
    found: dict[str, Candidate] = {}

    def candidate(group: Group) -> Candidate | None:
        flops = pretraining_flops([group])
        if flops is None:
            return None
        return found.setdefault(_key(group), Candidate(flops, None, {}))

    for group in pretraining:
        own = candidate(group) if "step" not in group.settings else None
        if own:
            found[_key(group)] = Candidate(own.flops, group, {})
    for group in evaluations:
        own = candidate(group) if group.tuning == "dense" else None
        if own:
            own.evaluations.setdefault(group.task, group)
    clusters: list[list[Candidate]] = []
    for way in sorted(found.values(), key=lambda way: way.flops):
        if clusters and way.flops <= clusters[-1][0].flops * (1 + TOLERANCE):
            clusters[-1].append(way)
        else:
            clusters.append([way])
    return [cluster for cluster in clusters if len(cluster) > 1]


def _key(group: Group) -> str:
    settings = sorted(
        (name, value)
        for name, value in group.settings.items()
        if name.partition(".")[0] in ("train", "sparsity")
    )
    return repr((group.model, group.sparsity, settings))
