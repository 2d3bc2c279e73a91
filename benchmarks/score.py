"""Seconds to score E2E's 630 outputs: ours beside the official programs.

    python benchmarks/score.py --data DIR

The official side is what of e2e-metrics runs here: the PTB tokenizer, METEOR,
ROUGE-L and CIDEr of pycocoevalcap, with its Java programs. Ours has those same
scores, and all of the protocol `e2e-metrics`, which BLEU and NIST are part of. Each
run is a new process, its start included, and the sides take turns. The first round
is not counted: it fills the page cache and ours' cache of METEOR's paraphrases.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

READ = """
import sys
from spdf_keras.data.tasks.references import read_hypotheses, read_references
hypotheses = read_hypotheses(sys.argv[1])
references = read_references([sys.argv[2]], len(hypotheses))
"""

SIDES = {
    "ours": READ
    + """
from spdf_keras.metrics.measures import Case, cider, ptb_meteor, rouge_l
case = Case(hypotheses, references, max(map(len, references)))
every = range(len(hypotheses))
print(*(measure(case).of(every) for measure in (ptb_meteor, rouge_l, cider)))
""",
    "ours, with BLEU and NIST": READ
    + """
from spdf_keras.metrics.protocols import score
values = score("e2e-metrics", hypotheses, references).values
print(values["meteor"], values["rouge_l"], values["cider"])
""",
    "official": READ
    + """
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
tokenizer = PTBTokenizer()
ours = {i: [{"caption": text}] for i, text in enumerate(hypotheses)}
theirs = {i: [{"caption": t} for t in texts] for i, texts in enumerate(references)}
sides = tokenizer.tokenize(theirs), tokenizer.tokenize(ours)
print(*(scorer.compute_score(*sides)[0] for scorer in (Meteor(), Rouge(), Cider())))
""",
}


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with `scorer_cases`")
    parser.add_argument("--case", default="e2e_test_tgen")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    folder = Path(args.data) / "scorer_cases" / args.case
    texts = [str(folder / f"{kind}.txt.gz") for kind in ("hypotheses", "references")]
    sides = dict(SIDES)
    if shutil.which("java") is None:
        print("no java: the official side is left out")
        del sides["official"]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    scores: dict[str, list[float]] = {}
    for round_number in range(args.rounds + 1):
        for side, program in sides.items():
            start = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", program, *texts],
                capture_output=True,
                text=True,
                check=True,
            )
            elapsed = time.perf_counter() - start
            scores[side] = [*map(float, result.stdout.splitlines()[-1].split())]
            if round_number:
                seconds[side].append(elapsed)
    for side, values in seconds.items():
        print(f"{side:26}{statistics.median(values):8.2f} s   {scores[side]}")
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(args), **conditions, "seconds": seconds}))


if __name__ == "__main__":
    main()
