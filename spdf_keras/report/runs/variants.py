"""The settings in which runs differ, besides model, sparsity and seeds."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from spdf_keras.config import SparsityConfig
from spdf_keras.report.runs.records import Evaluation, RunRecord, planned_tokens

Member = tuple[RunRecord, Evaluation | None]

# These settings do not make runs unlike: they change how a result is computed, but not
# the result, or they are seeds, or, as `keep_masks`, part of `Group.tuning`.
_NO_CONDITION = frozenset(
    ("seed", "micro_batches", "recompute", "jit_compile", "keep_checkpoints")
    + ("checkpoint_every", "validate_every", "keep_masks")
)


def tuning_of(run: RunRecord) -> str:
    """`none`, `dense`, `sparse` or `lora`; see `Group`."""
    if run.kind == "pretrain":
        return "none"
    if run.lora is not None:
        return "lora"
    return "sparse" if run.config.sparsity.sparsity else "dense"


def variants(
    bucket: Sequence[Member],
    conditions: Callable[[RunRecord, Evaluation | None], dict[str, Any]],
    unlike: Collection[str] = (),
) -> list[tuple[str, dict[str, Any], list[Member]]]:
    """Splits members that are not comparable.

    Args:
        bucket: Runs, or evaluations of runs.
        conditions: Gives the settings that must be equal.
        unlike: Settings that a name has although they are equal in the bucket.

    Returns:
        For each part its name, its settings and its members.
    """
    parts: list[_Part] = []
    for settings, part in _partition([(conditions(*m), m) for m in bucket]):
        tuned = _partition([({**settings, **_tuned(m[0])}, m) for m in part])
        seeds = [s for _, inner in tuned for s in {run.seed for run, _ in inner}]
        is_grid = len(seeds) > len(set(seeds))
        parts += tuned if is_grid else [(settings, part)]
    names = {*unlike, *unequal([settings for settings, _ in parts])}
    return [(_describe(settings, names), settings, part) for settings, part in parts]


def unequal(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of settings whose values differ.

    Example:
        >>> unequal([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
        {'b'}
    """
    names = {name for some in settings for name in some}
    return {n for n in names if len({repr(some.get(n)) for some in settings}) > 1}


def _describe(settings: Mapping[str, Any], names: Collection[str]) -> str:
    shown = [name for name in settings if name in names]
    short = [name.rpartition(".")[2] for name in shown]
    pieces = []
    for name, last in zip(shown, short, strict=True):
        label = last if short.count(last) == 1 else name
        value = settings[name]
        # A method is a word that explains itself.
        text = value if name == "sparsity.method" else f"{label}={_value(value)}"
        pieces.append(text)
    return ", ".join(pieces)


def _value(value: Any) -> str:
    return count(value) if isinstance(value, int) and value >= 1e4 else str(value)


def count(value: float) -> str:
    """A large number, such as one of parameters or tokens, by its unit.

    Example:
        >>> count(9_584_640), count(1.3e6), count(8128), count(512)
        ('9.58M', '1.3M', '8.13k', '512')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


_Part = tuple[dict[str, Any], list[Member]]


def _partition(members: Sequence[tuple[dict[str, Any], Member]]) -> list[_Part]:
    parts: dict[str, _Part] = {}
    for settings, member in members:
        parts.setdefault(repr(sorted(settings.items())), (settings, []))[1].append(
            member
        )
    return list(parts.values())


def recipe(run: RunRecord) -> dict[str, Any]:
    """The settings of its pre-training, as far as they are known."""
    masks = {"sparsity.method": run.origin.method}
    if run.origin.masks is not None:
        # Few of these settings count for a method: usual ones are left out.
        usual = _settings("sparsity", SparsityConfig())
        given = _settings("sparsity", run.origin.masks)
        masks |= {name: v for name, v in given.items() if v != usual[name]}
        masks.pop("sparsity.sparsity", None)
    training = _settings("train", run.config.train)
    # The usual number of tokens is said as what it is.
    training["train.tokens"] = planned_tokens(run.config)
    return {**masks, **training}


def _tuned(run: RunRecord) -> dict[str, Any]:
    is_pretraining = run.kind == "pretrain"
    return {} if is_pretraining else _settings("finetune", run.config.finetune)


def _settings(section: str, settings: Any) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for name, value in dataclasses.asdict(settings).items()
        if name not in _NO_CONDITION
    }
