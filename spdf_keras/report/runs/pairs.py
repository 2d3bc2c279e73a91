"""The pairs of groups whose difference answers a question of the paper."""

from collections.abc import Iterator, Sequence

from spdf_keras.report.runs.groups import Group


def pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """The pairs among the groups of one task and split, or among pre-trainings.

    Each group is compared with the one that it is meant to reach: a sparse
    pre-training with the dense one of the same model and recipe, masks that change
    with static ones of the same sparsity and recipe, and a fine-tuning that kept the
    masks with the dense one of the same pre-training. Where no dense pre-training has
    the recipe, as at equal operations, all dense ones of the model are compared.
    """
    for group in groups:
        others = [
            other
            for other in groups
            if other is not group and other.model == group.model
        ]
        if group.tuning == "sparse":
            for other in others:
                alike = other.tuning == "dense" and other.sparsity == group.sparsity
                if alike and not _unlike(group, other, ("train", "sparsity")):
                    yield group, other
        elif group.tuning in ("dense", "none") and group.sparsity:
            others = [other for other in others if other.tuning == group.tuning]
            dense = [other for other in others if other.sparsity == 0]
            for other in _closest(group, dense):
                yield group, other
            for other in others:
                alike = is_static_one_of(other, group)
                if alike and not _unlike(group, other, ("train",)):
                    yield group, other


def is_static_one_of(other: Group, group: Group) -> bool:
    """Whether a group has the paper's masks where one of its sparsity has others."""
    alike = (other.model, other.sparsity) == (group.model, group.sparsity)
    return alike and is_static(other) and not is_static(group)


def is_static(group: Group) -> bool:
    """Whether its masks are the paper's: drawn once, uniform, unstructured."""
    names = {name for name in group.settings if name.startswith("sparsity.")}
    return (
        names <= {"sparsity.method"}
        and group.settings.get("sparsity.method", "static") == "static"
    )


def _closest(group: Group, dense: Sequence[Group]) -> Sequence[Group]:
    return [d for d in dense if not _unlike(group, d, ("train",))] or dense


def _unlike(group: Group, other: Group, sections: Sequence[str]) -> bool:
    """Whether settings differ: those of some sections of a pre-training, or others.

    Settings of a fine-tuning count where both groups have them, as points of a search.
    """
    own, theirs = group.settings, other.settings
    for name in own.keys() | theirs.keys():
        section = name.partition(".")[0]
        if section in ("train", "sparsity") and section not in sections:
            continue
        if section == "finetune" and not (name in own and name in theirs):
            continue
        if own.get(name) != theirs.get(name):
            return True
    return False
