import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import Config, DecodeConfig, FinetuneConfig, GPTConfig
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.evaluation import (
    end_token_ids,
    evaluate,
    evaluate_run,
    generate_texts,
    perplexity,
    score_task,
)
from spdf_keras.training.run import Run

EXAMPLES = [
    Example("name : Aromi", ("Aromi is a pub.", "Aromi is a coffee shop.")),
    Example("name : Cotto | area : riverside", ("Cotto lies at the river.",)),
]
TEXTS = [text for e in EXAMPLES for text in (e.context, *e.references)]
CONFIG = Config(
    model=GPTConfig(2, 2, 32, vocabulary_size=300, max_sequence_length=64),
    finetune=FinetuneConfig(sequence_length=60),
    decode=DecodeConfig(max_new_tokens=6, batch_size=2),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Run:
    """A run as a fine-tuning leaves it, with weights that were never trained."""
    from spdf_keras.training.checkpoint import save_checkpoint

    made = Run.create(tmp_path / "run", CONFIG, tokenizer, {"kind": "finetune"})
    save_checkpoint(build_gpt(CONFIG.model), made.checkpoint_folder, 1, keep=1)
    return made


def test_an_evaluation_is_recorded_in_the_run(run: Run) -> None:
    task = get_task("e2e")
    record = evaluate_run(run, task, "test", EXAMPLES)
    folder = run.folder / "evaluation"
    assert json.loads((folder / "e2e_test.json").read_text()) == record
    outputs = (folder / "e2e_test.txt").read_text().splitlines()
    assert [s["hypothesis"].split() for s in record["samples"]] == [
        line.split() for line in outputs
    ]
    assert {"bleu", "nist", "meteor", "rouge_l", "cider"} <= record["scores"].keys()
    assert record["protocol"] == "e2e-metrics" and record["inputs"] == 2
    assert record["decode"]["max_new_tokens"] == 6
    assert record["versions"]["tensorflow"] and record["hardware"]["cores"]
    # The record does not keep the run from being opened, or from being evaluated anew.
    Run.open(run.folder)
    decode = dataclasses.replace(CONFIG.decode, num_beams=3)
    other = dataclasses.replace(CONFIG, decode=decode)
    again = evaluate_run(run, task, "test", EXAMPLES, other)
    assert again["decode"]["num_beams"] == 3


def test_perplexity_is_that_of_the_target_tokens_alone(tokenizer: Tokenizer) -> None:
    model = build_gpt(CONFIG.model)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)
    total, count = 0.0, 0
    for example in EXAMPLES:
        for reference in example.references:
            context = [*tokenizer.encode(example.context), tokenizer.end_token_id]
            target = [*tokenizer.encode(" " + reference), tokenizer.end_token_id]
            tokens = np.array([context + target])
            logits = model(tokens)[0].numpy().astype(np.float64)
            norms = np.log(np.exp(logits).sum(-1))
            for place, token in enumerate(target, len(context)):
                total += norms[place - 1] - logits[place - 1, token]
                count += 1
    found = perplexity(model, tokenizer, EXAMPLES, 60)
    assert found == pytest.approx(math.exp(total / count), rel=1e-4)


def test_the_curation_corpus_is_judged_by_perplexity(tokenizer: Tokenizer) -> None:
    model = build_gpt(CONFIG.model)
    long = [Example("news of the town " * 40, ("A sum.",)), *EXAMPLES]
    found = evaluate(model, tokenizer, long, CONFIG, get_task("curation"))
    assert found.scores.protocol == "perplexity" and found.cut_contexts == 1
    # Weights that were never trained know nothing: all 300 tokens are alike.
    assert 200 < (found.scores.values["perplexity"] or 0) < 450
    assert len(found.hypotheses) == 3


def test_webnlg_is_scored_in_its_parts() -> None:
    examples = [
        dataclasses.replace(example, seen=seen)
        for example, seen in zip(EXAMPLES, (True, False), strict=True)
    ]
    texts = ["Aromi is a pub.", "Cotto lies at a river."]
    scores = score_task("webnlg", texts, examples)
    assert scores.protocol == "generation-eval"
    assert scores.parts.keys() == {"seen", "unseen"}
    assert scores.parts["seen"].values["ter"] == 0.0
    assert (scores.parts["unseen"].values["ter"] or 0) > 0


def test_outputs_end_at_the_end_of_text_or_an_empty_line(real_data: Path) -> None:
    # Those of the LoRA recipe.
    assert end_token_ids(Tokenizer.load(real_data / "gpt2_bpe")) == [50256, 628]


class Parrot:
    """A model that always says the same."""

    def __init__(self, token_ids: list[int]) -> None:
        self._token_ids = token_ids
        self.settings: dict[str, Any] = {}

    def generate(self, prompts: Any, **settings: Any) -> list[list[int]]:
        self.settings = settings
        return [self._token_ids for _ in prompts]


def test_what_comes_after_an_empty_line_is_cut(tokenizer: Tokenizer) -> None:
    parrot: Any = Parrot(tokenizer.encode(" A pub.\n\nAnd more."))
    settings = DecodeConfig(num_beams=4, length_penalty=0.8)
    assert generate_texts(parrot, tokenizer, ["x", "y"], settings) == ["A pub."] * 2
    assert parrot.settings["num_beams"] == 4
    assert parrot.settings["length_penalty"] == 0.8
    (plain,) = generate_texts(parrot, tokenizer, ["x"], settings, separator=False)
    assert plain == "A pub.\n\nAnd more."
