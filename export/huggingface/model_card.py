"""`README.md` of a checkpoint: what the model is, for people and for the hub."""

import json
from collections.abc import Iterator
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.export.weights import WeightSource
from spdf_keras.flops import forward_flops
from spdf_keras.report.runs.fields import hide_paths
from spdf_keras.training.run import Run


def model_card(
    source: WeightSource,
    run: Run | None,
    *,
    name: str,
    zeros: int,
    size: int,
    has_tokenizer: bool,
    separator: bool,
) -> str:
    """Returns the model card of an export.

    Args:
        source: The weights.
        run: The run that they come from, if any; its record gives training and scores.
        name: Name of the model.
        zeros: Zeros in the kernels of all blocks.
        size: Entries of these kernels.
        has_tokenizer: Whether the folder has a tokenizer.
        separator: Whether a prompt is closed by the end-of-text token.
    """
    sections = [
        _head(zeros),
        f"# {name}",
        _about(source, zeros, size),
        *_training(run),
        *_scores(run),
        _use(has_tokenizer, separator),
    ]
    return "\n\n".join(sections) + "\n"


def _head(zeros: int) -> str:
    """The part that the hub reads."""
    tags = ["gpt2", "spdf", *(["sparse"] if zeros else [])]
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _about(source: WeightSource, zeros: int, size: int) -> str:
    sizes, fraction = source.sizes, zeros / size
    length = sizes.max_sequence_length
    dense = forward_flops(sizes, length)
    rows = [
        ("Parameters", f"{sizes.num_parameters:,}, zeros included"),
        (
            "Zeros in the six matrices of each block",
            f"{zeros:,} of {size:,} ({fraction:.2%})",
        ),
        (f"FLOPs of a forward pass over {length:,} tokens, dense", f"{dense:.3g}"),
    ]
    if zeros:
        skipped = forward_flops(sizes, length, fraction)
        rows.append(("The same, if the zeros are skipped", f"{skipped:.3g}"))
    text = "\n".join(f"| {label} | {value} |" for label, value in rows)
    about = f"A GPT-2 that spdf_keras has written.\n\n| | |\n| --- | --- |\n{text}"
    if not zeros:
        return about
    about += (
        "\n\nThe zeros are stored in place: every GPT-2 loader reads the weights, and "
        "multiplies the zeros: PyTorch's products are dense. Counts of parameters that "
        "are made from the files include them."
    )
    if source.sparsity:
        about += (
            " `masks.safetensors` has the masks, one bit per weight; its header says "
            "how, and `spdf_keras.from_huggingface` restores them."
        )
    return about


def _training(run: Run | None) -> Iterator[str]:
    if run is None:
        return
    origin, result = run.origin(), run.result() or {}
    base, source = origin.get("base", {}), origin.get("source", {})
    rows = [
        ("Kind", origin.get("kind")),
        ("Task", origin.get("task")),
        ("Masks in fine-tuning", origin.get("masks")),
        ("Corpus", _corpus(origin.get("corpus"))),
        ("Converted from", source.get("folder")),
        ("Tokens", _number(result.get("tokens"))),
        ("Training FLOPs", _number(result.get("flops"))),
        ("Validation loss, nats per token", _number(result.get("validation_loss"))),
        ("Sparsity of pre-training", base.get("sparsity")),
        ("Tokens of pre-training", _number(base.get("tokens"))),
        ("FLOPs of pre-training", _number(base.get("flops"))),
    ]
    lines = [
        f"| {label} | {value} |" for label, value in rows if value not in (None, "")
    ]
    yield "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines])
    if command := origin.get("command"):
        yield f"The command was:\n\n    {hide_paths(command)}"


def _corpus(corpus: Any) -> str:
    if not isinstance(corpus, dict):
        return ""
    return f"{corpus.get('folder')}, {_number(corpus.get('sequences'))} sequences"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _scores(run: Run | None) -> Iterator[str]:
    files = sorted((run.folder / "evaluation").glob("[!.]*.json")) if run else []
    rows = []
    for file in files:
        try:
            record = json.loads(file.read_text("utf-8"))
            scores = {k: v for k, v in record["scores"].items() if _number(v)}
            about = f"{record['task']}, {record['split']} split, {record['protocol']}"
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f"The evaluation '{file}' cannot be read: {error}. Remove it, or "
                "evaluate the run again."
            ) from error
        rows += [f"| {about} | {name} | {_number(v)} |" for name, v in scores.items()]
    if rows:
        yield "\n".join(
            ["## Scores", "", "| Data | Score | |", "| --- | --- | --- |", *rows]
        )


def _use(has_tokenizer: bool, separator: bool) -> str:
    if not has_tokenizer:
        code = [
            "from transformers import AutoModelForCausalLM",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        ]
        text = "The tokenizer of the model is not here."
    else:
        prompt = "text + tokenizer.eos_token" if separator else "text"
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            f'inputs = tokenizer({prompt}, return_tensors="pt")',
            "outputs = model.generate(**inputs)",
        ]
        text = "`generation_config.json` has the decoding settings of the run."
        if separator:
            text += (
                " An input is closed by the end-of-text token, as in fine-tuning, and "
                "an output ends there or at an empty line."
            )
    return "\n".join(["## Use", "", "```python", *code, "```", "", text])
