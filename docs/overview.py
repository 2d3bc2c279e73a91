"""Draws the pictures of the README from the measured results.

python docs/overview.py
"""

import csv
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

RESULTS = Path(__file__).parent / "results"
BLUE, ORANGE, GREY = "#3f51b5", "#e07b00", "#777777"


def study_rows() -> list[tuple[str, str, float, float, float]]:
    """Reads sparsity, fine-tuning, operations and BLEU of the study's summary."""
    text = (RESULTS / "evidence" / "report.md").read_text("utf-8")
    rows = re.findall(
        r"^\| GPT, 298.4k(?:; (?:static, )?tokens=5.97M)? \| (\d+%) \| "
        r"(dense|sparse \(masks kept\)) \| \S+ \| "
        r"([\d.]+)x \| [^|]+ \| ([\d.]+) ± ([\d.]+) \(\d\) \|",
        text,
        re.M,
    )
    assert len(rows) == 5, "the summary has other rows or columns"
    return [(s, mode, float(f), float(b), float(d)) for s, mode, f, b, d in rows]


def product_rows() -> list[tuple[float, float]]:
    """Reads zeros and speed-up of one product with both of its gradients."""
    with (RESULTS / "matmul" / "matmul.csv").open(encoding="utf-8") as file:
        rows = [
            (float(row["sparsity"]), float(row["speedup"]))
            for row in csv.DictReader(file)
            if (row["shape"], row["tokens"]) == ("768x3072", "2048")
            and row["operation"] == "forward and gradients"
            and row["backend"] == "ours, training"
        ]
    return sorted(rows)


def panel(title: str) -> tuple[Figure, Axes]:
    """Starts one picture."""
    figure, axes = plt.subplots(figsize=(4.9, 3.9), dpi=160)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def draw_quality(path: Path) -> None:
    """Draws BLEU against the operations of pre-training."""
    figure, axes = panel("Quality: GPT of 0.3M parameters")
    modes = {
        "dense": ("dense fine-tuning", BLUE, "o", -0.008),
        "sparse (masks kept)": ("sparse fine-tuning (masks kept)", ORANGE, "s", 0.008),
    }
    for mode, (label, colour, marker, shift) in modes.items():
        rows = [row for row in study_rows() if row[1] == mode]
        axes.errorbar(
            [row[2] + shift * (row[2] < 1) for row in rows],
            [row[3] for row in rows],
            [row[4] for row in rows],
            color=colour,
            marker=marker,
            linestyle="none",
            capsize=4,
            label=label,
        )
    for sparsity, mode, flops, _, _ in study_rows():
        if mode == "dense":
            axes.text(flops, 69.4, f"{sparsity} zeros", ha="center", fontsize=9)
    axes.set(xlim=(1.08, 0.48), ylim=(61, 70))
    ticks = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.set_xlabel("operations of pre-training, over dense")
    axes.set_ylabel("BLEU, E2E test set")
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def draw_speed(path: Path) -> None:
    """Draws the speed of one product against its zeros."""
    figure, axes = panel("Speed: one product in training, CPU")
    share = [place / 100 for place in range(96)]
    theory = [1 / (1 - zeros) for zeros in share]
    label = "theory: 1 / (1 - zeros)"
    axes.plot(share, theory, color=GREY, linestyle="--", label=label)
    axes.plot(
        *zip(*product_rows(), strict=True), color=BLUE, marker="o", label="measured"
    )
    for zeros, speedup in product_rows():
        place = (zeros, speedup)
        axes.annotate(f"{speedup:.2f}x", place, (6, -12), textcoords="offset points")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    ticks = [1, 2, 4, 8, 16]
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    marks = [0, 0.25, 0.5, 0.75, 0.95]
    axes.set_xticks(marks, [f"{mark:.0%}" for mark in marks])
    axes.set(xlim=(-0.03, 1.09), ylim=(0.6, 22))
    axes.set_xlabel("zeros")
    axes.set_ylabel("speed over the fastest dense product")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    draw_quality(RESULTS / "quality.png")
    draw_speed(RESULTS / "speed.png")
