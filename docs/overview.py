"""Draws `results/overview.png`, the picture of the README, from the measured results.

python docs/overview.py
"""

import csv
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

RESULTS = Path(__file__).parent / "results"
BLUE, ORANGE, GREY = "#3f51b5", "#e07b00", "#777777"


def study_rows() -> list[tuple[str, str, float, float, float]]:
    """Reads sparsity, fine-tuning, operations and BLEU of the study's summary."""
    text = (RESULTS / "study_e2e_mini" / "report.md").read_text("utf-8")
    rows = re.findall(
        r"^\| GPT, 3.2M \| (\d+%) \| (dense|sparse \(masks kept\)) \| \S+ \| "
        r"([\d.]+)x \| [^|]+ \| ([\d.]+) ± ([\d.]+) \(\d\) \|$",
        text,
        re.M,
    )
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


def draw(path: Path) -> None:
    """Draws quality beside speed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), dpi=120)
    modes = (("dense", BLUE, "o", -0.008), ("sparse (masks kept)", ORANGE, "s", 0.008))
    for mode, colour, marker, shift in modes:
        rows = [row for row in study_rows() if row[1] == mode]
        left.errorbar(
            [row[2] + shift * (row[2] < 1) for row in rows],
            [row[3] for row in rows],
            [row[4] for row in rows],
            color=colour,
            marker=marker,
            linestyle="none",
            capsize=4,
            label=f"{mode.split()[0]} fine-tuning"
            + (" (masks kept)" if "kept" in mode else ""),
        )
    for sparsity, mode, flops, _, _ in study_rows():
        if mode == "dense":
            left.text(flops, 61.7, f"{sparsity} zeros", ha="center", fontsize=9)
    left.set(xlim=(1.1, 0.38), ylim=(45, 63))
    left.set_xticks(ticks := [1.0, 0.8, 0.6, 0.4], [f"{tick}x" for tick in ticks])
    left.set_xlabel("operations of pre-training, over dense")
    left.set_ylabel("BLEU, E2E test set")
    left.set_title("Quality: GPT of 3.2M parameters", loc="left", fontsize=11)
    left.legend(frameon=False, loc="lower left", fontsize=9)
    zeros = [row[0] for row in product_rows()]
    share = [place / 100 for place in range(96)]
    right.plot(
        share,
        [1 / (1 - s) for s in share],
        color=GREY,
        linestyle="--",
        label="theory: 1 / (1 - zeros)",
    )
    speedups = [row[1] for row in product_rows()]
    right.plot(zeros, speedups, color=BLUE, marker="o", label="measured")
    for zero, speedup in product_rows():
        right.annotate(
            f"{speedup:.2f}x", (zero, speedup), (6, -12), textcoords="offset points"
        )
    right.axhline(1, color="black", linewidth=0.8)
    right.set_yscale("log", base=2)
    ticks = [1, 2, 4, 8, 16]
    right.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    marks = [0, 0.25, 0.5, 0.75, 0.95]
    right.set_xticks(marks, [f"{mark:.0%}" for mark in marks])
    right.set(xlim=(-0.03, 1.09), ylim=(0.6, 22))
    right.set_xlabel("zeros")
    right.set_ylabel("speed over the fastest dense product")
    right.set_title("Speed: one product in training, CPU", loc="left", fontsize=11)
    right.legend(frameon=False, loc="upper left", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    draw(RESULTS / "overview.png")
