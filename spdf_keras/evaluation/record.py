"""The evaluation of a run, recorded in its folder."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spdf_keras.config import Config
from spdf_keras.data.tasks.task import Example, Task
from spdf_keras.evaluation.scores import NUM_SAMPLES, evaluate
from spdf_keras.evaluation.texts import write_lines
from spdf_keras.files import replace_file
from spdf_keras.provenance import provenance

if TYPE_CHECKING:
    from spdf_keras.training.run import Run


def evaluate_run(
    run: "Run",
    task: Task,
    split: str,
    examples: Sequence[Example],
    config: Config | None = None,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a run and records it in `evaluation/` of its folder.

    Args:
        run: A fine-tuned run.
        task: The task.
        split: Name of the split, for the record.
        examples: The split's examples.
        config: Other settings than the run's own.
        report: Gets the number of contexts done, after each batch.

    Returns:
        The record, which is also in `evaluation/<task>_<split>.json`, beside the
        outputs in `.txt`.
    """
    from spdf_keras.training.checkpoint import checkpoint_step

    start = time.perf_counter()
    config = config or run.config()
    origin = provenance()
    checkpoint, finished = run.checkpoint(), run.result() is not None
    evaluation = evaluate(
        run.load_model(), run.tokenizer(), examples, config, task, report
    )
    samples = [
        {
            "context": example.context,
            "hypothesis": text,
            "references": list(example.references),
        }
        for example, text in zip(
            examples[:NUM_SAMPLES], evaluation.hypotheses, strict=False
        )
    ]
    record = {
        "task": task.name,
        "split": split,
        "protocol": evaluation.scores.protocol,
        "inputs": len(examples),
        "decode": asdict(config.decode),
        "scores": evaluation.scores.values,
        "errors": evaluation.scores.errors,
        "parts": {name: part.values for name, part in evaluation.scores.parts.items()},
        "cut_contexts": evaluation.cut_contexts,
        "step": checkpoint_step(checkpoint),
        "finished": finished,
        "samples": samples,
        "seconds": round(time.perf_counter() - start, 1),
        **origin,
    }
    file = run.evaluation_file(task.name, split)
    file.parent.mkdir(exist_ok=True)
    write_lines(file.with_suffix(".txt"), evaluation.hypotheses)
    replace_file(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record
