"""Scores over resampled test inputs: the paired bootstrap, as sacreBLEU does it.

All runs of a task and split share one set of drawings, so a difference of two systems
is over the same inputs. The mean over seeds is taken inside each drawing.

Reference:
    [Koehn, 2004](https://aclanthology.org/W04-3250); `significance.py` of
    [sacreBLEU](https://github.com/mjpost/sacrebleu).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.data.tasks.task import PERPLEXITY, Example, Task
from spdf_keras.errors import InputError
from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.report.runs.groups import (
    by_task_and_split,
    evaluation_groups,
    main_groups,
)
from spdf_keras.report.runs.records import Evaluation, RunRecord
from spdf_keras.training.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# sacreBLEU's number of drawings and seed.
DRAWINGS, SEED = 1000, 12345
# The largest difference, relative above 1, between a recorded score and ours.
_ROUNDING = 1e-9

# A run, a task, a split and a score.
Key = tuple[int, str, str, str]
Keyed = Iterable[tuple[Hashable, Key]]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Resamples:
    """Scores of each evaluation, one per drawing of inputs.

    Attributes:
        scores: `(drawings,)` by run, task, split and score.
        problems: Why there are none, by task and split, and the runs concerned; all
            runs where it is None.
        lacking: Scores without drawings by task.
    """

    scores: Mapping[Key, "NDArray[np.float64]"] = field(default_factory=dict)
    problems: Mapping[str, list[RunRecord] | None] = field(default_factory=dict)
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def interval(
        self, own: Keyed, others: Keyed, mean: float
    ) -> tuple[float, float, float] | None:
        """The ends of the interval of 95 % of a difference, and its p.

        Args:
            own: Seeds and evaluations; of equal seeds, the mean counts.
            others: The same of the other system.
            mean: The difference of the undrawn scores, as a mean over common seeds.

        Returns:
            None if an evaluation has no drawings, or its score is not defined in one.
        """
        import numpy as np

        ours, theirs = _by_seed(own), _by_seed(others)
        gaps = []
        for seed in ours:
            if seed not in theirs:
                continue
            keys = [*ours[seed], *theirs[seed]]
            if not all(key in self.scores for key in keys):
                return None
            sides = ([self.scores[key] for key in s[seed]] for s in (ours, theirs))
            first, second = (np.mean(side, axis=0) for side in sides)
            gaps.append(first - second)
        if not gaps:
            return None
        gap = np.mean(gaps, axis=0)
        if not np.isfinite(gap).all():
            return None
        low, high = np.percentile(gap, (2.5, 97.5))
        return float(low), float(high), paired_p(gap, mean)


def paired_p(gap: "NDArray[np.float64]", mean: float) -> float:
    """The p of sacreBLEU's paired bootstrap.

    Args:
        gap: The difference of two systems in each drawing.
        mean: Their difference.
    """
    import numpy as np

    sizes = np.abs(gap)
    beyond = int(np.sum(sizes - sizes.mean() > abs(mean)))
    return (beyond + 1) / (len(gap) + 1)


def _by_seed(keyed: Keyed) -> dict[Hashable, list[Key]]:
    keys: dict[Hashable, list[Key]] = defaultdict(list)
    for seed, key in keyed:
        keys[seed].append(key)
    return keys


def draw_inputs(
    count: int, drawings: int = DRAWINGS, seed: int = SEED
) -> "NDArray[np.float64]":
    """Draws inputs with replacement, the same ones as sacreBLEU.

    Returns:
        `(drawings, count)`, `float64`: how often each drawing has each input.

    Example:
        >>> draw_inputs(4, drawings=2).sum(axis=1).tolist()
        [4.0, 4.0]
    """
    import numpy as np

    rows = np.random.default_rng(seed).choice(count, (drawings, count), replace=True)
    places = rows + count * np.arange(drawings)[:, None]
    flat = np.bincount(places.ravel(), minlength=drawings * count)
    return flat.reshape(drawings, count).astype(float)


def resample(
    runs: Sequence[RunRecord],
    data: str | Path,
    all_scores: bool = False,
    tell: Tell | None = None,
) -> Resamples:
    """Scores the recorded outputs of runs over drawings of their inputs.

    Args:
        runs: The runs; their evaluations on one split per task count, the test split
            where there is one.
        data: Folder with the tasks' files.
        all_scores: Whether METEOR and TER are drawn too, which are counted slowly;
            otherwise the main score of each task alone.
        tell: Gets the numbers of counted and of all outputs files.

    Returns:
        The scores; a problem keeps a run out and is named there.
    """
    scores: dict[Key, NDArray[np.float64]] = {}
    problems: dict[str, list[RunRecord] | None] = {}
    lacking: dict[str, Sequence[str]] = {}
    main = by_task_and_split(main_groups(evaluation_groups(runs)))
    total = sum(len(group.runs) for groups in main for group in groups)
    done = 0
    for groups in main:
        name, split = groups[0].task, groups[0].split
        where = f"{name}, {split}"
        task = TASKS.get(name)
        members = [m for g in groups for m in zip(g.runs, g.evaluations, strict=True)]
        if task is None or task.protocol == PERPLEXITY:
            problems[f"{where}: its score has no interval over inputs"] = None
            continue
        try:
            examples = task.read(data, split)
        except InputError as error:
            # A report does not name the folders of a machine.
            reason = str(error).replace(str(data), Path(data).name)
            problems[f"{where}: no intervals over inputs. {reason}"] = None
            continue
        columns = task.table.scores if all_scores else task.table.scores[:1]
        draws = draw_inputs(len(examples))
        for run, evaluation in members:
            names = [
                c.name for c in columns if evaluation.scores.get(c.name) is not None
            ]
            try:
                found = _drawn(run, evaluation, task, examples, names, draws)
            except InputError as error:
                key = f"{where}: no interval over inputs, because {error}"
                problems[key] = [*(problems.get(key) or []), run]
                found = {}
            scores |= {(run.number, name, split, n): v for n, v in found.items()}
            done += 1
            if tell:
                tell(done, total)
        drawn = {key[3] for key in scores if key[1:3] == (name, split)}
        lacking[name] = [c.title for c in task.table.scores if c.name not in drawn]
    return Resamples(scores, problems, lacking)


def _drawn(
    run: RunRecord,
    evaluation: Evaluation,
    task: Task,
    examples: Sequence[Example],
    names: Sequence[str],
    draws: "NDArray[np.float64]",
) -> "dict[str, NDArray[np.float64]]":
    """Scores the outputs of a run in each drawing.

    Raises:
        InputError: If outputs and data do not give the recorded scores; the message
            is the reason alone.
    """
    from spdf_keras.evaluation.scores import task_sums

    file = Run(run.folder).evaluation_file(evaluation.task, evaluation.split)
    try:
        outputs = split_lines(file.with_suffix(".txt").read_text("utf-8"))
    except (OSError, ValueError):
        raise InputError("there is no file of outputs beside the scores") from None
    if len(outputs) != len(examples):
        raise InputError(
            f"it has {len(outputs):,} outputs and the data {len(examples):,} inputs"
        )
    drawn = {}
    for name, sums in task_sums(task, outputs, examples, names).items():
        recorded = evaluation.scores[name]
        try:
            found = sums.of(range(len(examples)))
        except UndefinedScoreError:
            found = math.nan
        assert recorded is not None  # the caller names scores with a value
        if not abs(found - recorded) <= _ROUNDING * max(1.0, abs(recorded)):
            raise InputError(
                "data and outputs do not belong together: they do not have the "
                f"recorded {name}"
            )
        drawn[name] = sums.resampled(draws)
    return drawn
