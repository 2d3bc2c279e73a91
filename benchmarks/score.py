"""How long does it take to score the outputs of a test set?

    python benchmarks/score.py --data DIR

Our scores and those of the official programs are computed for the 630 outputs of an
E2E system. The official side is the part of e2e-metrics that runs without Perl: the PTB
tokenizer, METEOR, ROUGE-L and CIDEr of pycocoevalcap, with its Java programs. Our side
computes the same scores, and a third one the whole protocol `e2e-metrics`, with BLEU
and NIST. Each run is a new process, its start included, and the sides take turns. The
first round is not counted: it fills the page cache and our cache of METEOR's
paraphrases.
"""

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, take_turns
from spdf_keras.provenance import provenance

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
    calls = {side: partial(run, program, texts) for side, program in sides.items()}
    results = []
    for side, runs in take_turns(calls, args.rounds).items():
        seconds, scores = [result[0] for result in runs], runs[-1][1]
        results.append({"side": side, "seconds": seconds, "scores": scores})
        print(f"{side:26}{Spread.of(seconds).median:8.2f} s   {scores}")
    print_json({**vars(args), **provenance(), "results": results})


def run(program: str, texts: list[str]) -> tuple[float, list[float]]:
    """Runs the program of a side; returns its seconds, and the scores that it gave."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", program, *texts],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    return seconds, [*map(float, result.stdout.splitlines()[-1].split())]


if __name__ == "__main__":
    main()
