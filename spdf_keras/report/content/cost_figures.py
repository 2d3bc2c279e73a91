"""Figures of scores against operations: quality per exaFLOP."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spdf_keras.data.tasks.score_table import Score
from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.labels import TUNING, Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import (
    LINE_COLORS,
    Draw,
    draw_picture,
    picture_name,
)
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A group's label, its operations in exaFLOPs and its score.
_Point = tuple[str, float, Summary]


def cost_figure(groups: Sequence[Group], labels: Labels) -> Picture | None:
    """The main score of one task and split against all training operations.

    Operations are those of pre-training and fine-tuning, zeros skipped.

    Returns:
        None unless two groups have both numbers.
    """
    layout = score_table(groups[0].task, groups)
    if not layout.scores:
        return None
    score, points = layout.scores[0], []
    for group in groups:
        summary = group.score(score.name)
        cost = group.summary(lambda run: run.all_flops)
        if summary is not None and cost is not None:
            sparsity, tuning = percent(group.sparsity), TUNING[group.tuning]
            words = (labels[group.model], sparsity, tuning, group.variant)
            label = ", ".join(filter(None, words))
            points.append((label, cost.mean / 1e18, summary.scaled(score.factor)))
    if len(points) < 2:
        return None
    name = picture_name("cost", groups[0].task, groups[0].split)
    title = f"{layout.task}, {groups[0].split}: {score.title} for its operations"
    return draw_picture(name, title, _drawing(points, score))


def _drawing(points: Sequence[_Point], score: Score) -> Draw:
    def draw(axes: "Axes") -> None:
        markers = "osD^vP*X"
        for index, (label, cost, summary) in enumerate(points):
            axes.errorbar(
                [cost],
                [summary.mean],
                [summary.std or 0],
                color=LINE_COLORS[index % len(LINE_COLORS)],
                marker=markers[index % len(markers)],
                markersize=5,
                linestyle="",
                capsize=3,
                label=label,
            )
        costs = [cost for _, cost, _ in points]
        if max(costs) > 10 * min(costs):  # else its labels would stand too close
            axes.set_xscale("log")
        axes.margins(0.15)
        axes.set(xlabel="exaFLOPs of training, zeros skipped", ylabel=score.title)

    return draw
