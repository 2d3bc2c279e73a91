import dataclasses
import math
import re
import shutil
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.report.content.density import density_figure
from spdf_keras.report.content.labels import model_labels
from spdf_keras.report.content.loss_figures import (
    loss_figures,
    smoothed,
    sparsity_colors,
    thin,
)
from spdf_keras.report.content.score_figures import score_figures
from spdf_keras.report.page.drawing import draw_picture
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.density import read_density
from spdf_keras.report.runs.groups import evaluation_groups
from spdf_keras.report.runs.records import Curve

from .conftest import CONFIG, FakeRuns

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_smoothed_curve_starts_at_its_first_loss() -> None:
    curve = smoothed(Curve((1, 2, 3), (4.0, 4.0, 1.0)), weight=0.5)
    assert curve.losses[:2] == (4.0, 4.0)
    # 0.5 * 1 + 0.25 * 4 + 0.125 * 4, over 0.875
    assert curve.losses[2] == pytest.approx(2.0 / 0.875)


def test_a_loss_that_is_no_number_does_not_spoil_the_average() -> None:
    losses = smoothed(Curve((1, 2, 3), (2.0, math.nan, 2.0))).losses
    assert losses[0] == losses[2] == pytest.approx(2.0) and math.isnan(losses[1])


@pytest.mark.parametrize("count", [0, 1, 399, 400, 401, 4778])
def test_a_long_curve_is_thinned_and_keeps_its_last_step(count: int) -> None:
    steps = tuple(range(1, count + 1))
    curve = thin(Curve(steps, tuple(map(float, steps))), points=400)
    assert len(curve.steps) <= 400 and curve.steps[-1:] == steps[-1:]
    assert curve.losses == tuple(map(float, curve.steps))
    assert len(curve.steps) >= min(count, 200)


def test_a_sparsity_has_one_colour_in_all_figures(runs: FakeRuns) -> None:
    for sparsity in (0.75, 0.0, 0.5):
        runs.pretrained(f"p{sparsity}", sparsity)
        runs.finetuned(f"f{sparsity}", sparsity)
    found = collect([runs.root])
    colors = sparsity_colors(found)
    assert len(set(colors.values())) == 4  # with that of an unknown sparsity
    pictures = loss_figures(found, model_labels(found), colors)
    assert [picture.title for picture in pictures] == [
        *("Pre-training: GPT, 8.1k", "Fine-tuning on E2E: GPT, 8.1k")
    ]
    for picture in pictures:
        assert picture.png.startswith(PNG)
        for sparsity in (0.0, 0.5, 0.75):
            assert colors[sparsity] in picture.svg


def test_a_diverged_run_is_drawn(runs: FakeRuns) -> None:
    folder = runs.settings("a", CONFIG)
    lines = ['{"step": 1, "loss": NaN}', '{"step": 2, "validation_loss": Infinity}']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    found = collect([folder])
    (picture,) = loss_figures(found, model_labels(found), sparsity_colors(found))
    assert picture.png.startswith(PNG)


def test_our_scores_and_the_printed_ones_have_axes_of_their_own(runs: FakeRuns) -> None:
    for sparsity in (0.0, 0.75):
        for seed in (0, 1):
            folder = runs.finetuned(f"{sparsity}-{seed}", sparsity, seed)
            runs.evaluated(folder, scores={"bleu": 0.4 + 0.01 * seed})
    found = collect([runs.root])
    pictures = score_figures(evaluation_groups(found), model_labels(found))
    assert [picture.name for picture in pictures] == [
        *("score-e2e-test", "score-e2e-test-printed")
    ]
    ours, printed = (picture.svg for picture in pictures)
    assert "dense fine-tuning" in ours and "GPT-2 Small" not in ours
    assert "stroke-dasharray" in printed and "GPT-2 Small, printed" in printed


def test_webnlg_has_a_figure_for_each_part(runs: FakeRuns) -> None:
    runs.evaluated(runs.finetuned("a", task="webnlg"), "webnlg")
    found = collect([runs.root])
    pictures = score_figures(evaluation_groups(found), model_labels(found))
    assert [picture.name.removeprefix("score-webnlg-test") for picture in pictures] == [
        *("", "-seen", "-unseen", "-printed")
    ]


def test_scores_that_all_failed_have_no_figure(runs: FakeRuns) -> None:
    runs.evaluated(runs.finetuned("a"), scores={"bleu": None})
    found = collect([runs.root])
    assert score_figures(evaluation_groups(found), model_labels(found)) == []


def test_the_density_is_counted_in_the_checkpoint(runs: FakeRuns) -> None:
    (run,) = collect([runs.pretrained("a", 0.7)])
    density = read_density(run)
    assert density is not None and len(density.matrices) == 12
    query = density.matrices[0]
    # round(0.7 * 256) = 179 zeros
    assert (query.layer, query.name, query.size, query.kept) == (0, "query", 256, 77)
    assert density.exact == 12 and density.violations == 0
    picture = density_figure(density)
    assert f"{77 / 256:.4f}" in picture.svg and "W_Q" in picture.svg
    assert "leak" not in picture.svg
    # A text without a colour takes the page's ink, which is light on light.
    values = re.findall(r"<text ([^>]*)>0\.3008<", picture.svg)
    assert len(values) == 8 and all("fill" in attributes for attributes in values)


def test_a_leak_through_a_mask_is_counted_and_drawn(runs: FakeRuns) -> None:
    from safetensors.numpy import load_file, save_file

    (run,) = collect([runs.pretrained("a", 0.75)])
    assert run.checkpoint is not None
    file = run.checkpoint / "weights.safetensors"
    weights = load_file(file)
    kernel = weights["block_1/key/kernel"]
    kernel[tuple(np.argwhere(kernel == 0)[0])] = 1e-30
    save_file(weights, file)
    density = read_density(run)
    assert density is not None and density.violations == 1
    assert [m.violations for m in density.matrices if m.name == "key"] == [0, 1]
    assert "(1 leak)" in density_figure(density).svg


def test_masks_of_another_sparsity_than_asked_for_show(runs: FakeRuns) -> None:
    (run,) = collect([runs.pretrained("a", 0.75)])
    config = dataclasses.replace(run.config, sparsity=SparsityConfig(0.5))
    density = read_density(dataclasses.replace(run, config=config))
    assert density is not None and density.exact == 0


def test_a_run_without_masks_has_no_density(runs: FakeRuns) -> None:
    dense = runs.pretrained("a")
    bare = runs.pretrained("b", 0.5)
    shutil.rmtree(bare / "checkpoints")
    assert [read_density(run) for run in collect([dense, bare])] == [None, None]


def test_a_damaged_checkpoint_is_refused(runs: FakeRuns) -> None:
    (run,) = collect([runs.pretrained("a", 0.5)])
    assert run.checkpoint is not None
    (run.checkpoint / "masks.safetensors").write_bytes(b"no masks")
    with pytest.raises(InputError, match=r"step-00000040' is damaged .* one before"):
        read_density(run)
    (run.checkpoint / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="is damaged or incomplete"):
        read_density(run)


def test_equal_figures_have_equal_bytes_and_names_of_their_own(runs: FakeRuns) -> None:
    for name in "ab":
        runs.pretrained(name, 0.5, seed="ab".index(name))
    first, second = (read_density(run) for run in collect([runs.root]))
    assert first and second
    assert density_figure(first) == density_figure(first)
    names = [
        set(re.findall(r'\bid="([^"]+)"', density_figure(density).svg))
        for density in (first, second)
    ]
    assert names[0] and not names[0] & names[1]


@pytest.mark.parametrize("word", ["dense", "sparse (masks kept), redense, stages=1"])
def test_a_legend_stands_below_its_panel(word: str) -> None:
    panels: list[Any] = []

    def draw(axes: Any) -> None:
        panels.append(axes)
        for number in range(17):
            axes.plot([0, 1], [number, 0], label=f"{word} {number}")

    draw_picture("many", "Many lines", draw)
    figure = panels[0].figure
    (legend,) = figure.legends
    drawn, panel = legend.get_window_extent(), panels[0].get_tightbbox()
    assert len(legend.get_texts()) == 17
    assert drawn.y0 >= 0 and drawn.y1 <= panel.y0 + 5  # the last layout is of the SVG
    assert drawn.x1 <= figure.bbox.x1
    assert panel.height > 0.8 * 3.3 * figure.dpi  # inches
