"""Figures of the scores against the sparsity of pre-training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spdf_keras.data.tasks.score_table import Score, ScoreTable
from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import (
    INK,
    LINE_COLORS,
    Draw,
    draw_picture,
    picture_name,
)
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def score_figures(groups: Sequence[Group], labels: Labels) -> list[Picture]:
    """The main score of one task and split against the sparsity of pre-training.

    Our models and the paper's GPT-2 Small have separate figures with axes of equal
    span, because the fall of a score compares between models and its level does not.
    WebNLG has a figure per part.
    """
    task, split = groups[0].task, groups[0].split
    layout = score_table(task, groups)
    if not layout.scores:
        return []
    score = layout.scores[0]
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))
    spans, drawings = [], []
    for part in ("", *parts):
        lines = dict(_lines(groups, labels, score, part))
        points = [s for line in lines.values() for _, s in line]
        if not points:
            continue
        shown = f"{layout.task}{f' ({part})' if part else ''}"
        name = picture_name("score", task, split, part)
        drawings.append((name, f"{shown}, {split}: {score.title}", lines, False))
        spans.append(_span(points))
    printed = _printed_line(layout, score)
    if printed and drawings:
        title = f"{layout.task}: {score.title} as printed, GPT-2 Small"
        name = picture_name("score", task, split, "printed")
        drawings.append((name, title, {"GPT-2 Small, printed": printed}, True))
        spans.append(_span([s for _, s in printed]))
    height = max(high - low for low, high in spans) if spans else 0.0
    return [
        draw_picture(name, title, _score_drawing(lines, score, span, height, dashed))
        for (name, title, lines, dashed), span in zip(drawings, spans, strict=True)
    ]


Line = list[tuple[float, Summary]]


def _lines(
    groups: Sequence[Group], labels: Labels, score: Score, part: str
) -> Iterator[tuple[str, Line]]:
    lines: dict[str, Line] = {}
    for group in groups:
        summary = group.score(score.name, part)
        if group.sparsity is None or summary is None:
            continue
        tuning = {"none": "not fine-tuned", "lora": "fine-tuned by LoRA"}.get(
            group.tuning, f"{group.tuning} fine-tuning"
        )
        label = ", ".join(filter(None, (labels[group.model], tuning, group.variant)))
        point = (group.sparsity, summary.scaled(score.factor))
        lines.setdefault(label, []).append(point)
    for label, line in lines.items():
        yield label, sorted(line, key=lambda point: point[0])


def _printed_line(layout: ScoreTable, score: Score) -> Line:
    return [
        (sparsity, Summary(cells[score.name].mean, cells[score.name].std, 0))
        for (model, sparsity), cells in layout.printed.items()
        if model == "gpt2_small"
    ]


def _span(points: Sequence[Summary]) -> tuple[float, float]:
    lows = [s.mean - (s.std or 0) for s in points]
    highs = [s.mean + (s.std or 0) for s in points]
    return min(lows), max(highs)


def _score_drawing(
    lines: Mapping[str, Line],
    score: Score,
    span: tuple[float, float],
    height: float,
    dashed: bool,
) -> Draw:
    def draw(axes: "Axes") -> None:
        markers = "osD^vP"
        for index, (label, line) in enumerate(lines.items()):
            axes.errorbar(
                [100 * sparsity for sparsity, _ in line],
                [summary.mean for _, summary in line],
                [summary.std or 0 for _, summary in line],
                color=INK if dashed else LINE_COLORS[index % len(LINE_COLORS)],
                linestyle="--" if dashed else "-",
                marker=markers[index % len(markers)],
                markersize=4,
                linewidth=1.2,
                capsize=3,
                label=label,
            )
        middle, half = sum(span) / 2, 0.6 * height or 0.5 * abs(sum(span)) or 1.0
        # No score is below zero, so an axis starts lower only for an error bar.
        low = max(middle - half, min(span[0], 0.0))
        axes.set_ylim(low, low + 2 * half)
        sparsities = sorted({100 * s for line in lines.values() for s, _ in line})
        axes.set_xticks(sparsities, [f"{s:g}%" for s in sparsities])
        axes.margins(x=0.12)
        axes.set(xlabel="pre-train sparsity", ylabel=score.title)

    return draw
