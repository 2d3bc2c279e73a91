"""The options of `spdf-keras export` that not every format honours: one table.

A format that is new is named in `formats` of the options that it honours. An option
that is new is a row of the table. Nothing else refuses options.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spdf_keras.errors import InputError


@dataclass(frozen=True)
class Option:
    """An option, and what it needs.

    Attributes:
        flag: The option.
        keyword: The exporters' keyword for it.
        formats: Formats that honour it.
        because: What another format is like, as the end of "which ...".
        argument: How argparse reads it.
        signatures: Signatures that honour it; any if empty.
        needs: An option that must be given with it.
        group: Its group in the help.
    """

    flag: str
    keyword: str
    formats: tuple[str, ...]
    because: Mapping[str, str]
    argument: Mapping[str, Any]
    signatures: tuple[str, ...] = ()
    needs: str = ""
    group: str = ""


_SIZES, _XLA = "fixed sizes of tflite, litertlm and xla", "xla"
_TOKENS = {"type": int, "metavar": "TOKENS"}
_ANY_LENGTH = "takes any length up to the context"
# Why formats that other libraries define have no options.
_FIXED = {
    "huggingface": "is written as transformers reads it",
    "keras_nlp": "is written as KerasNLP reads it",
    "peft": "is an adapter without the model",
}

OPTIONS = (
    Option(
        "--sparse",
        "sparse",
        ("tflite", "litertlm", "xla"),
        {"saved_model": "stores its variables dense", **_FIXED},
        {"action": "store_true", "help": "store only the weights that masks keep"},
    ),
    Option(
        "--quantize",
        "quantize",
        ("tflite", "litertlm"),
        {
            "saved_model": "stores and computes float32",
            "xla": "has --precision mixed_bfloat16 or mixed_float16 in its place",
            **_FIXED,
        },
        {
            "choices": ["fp16", "int8"],
            "help": "store weights in half or a quarter of the bytes",
        },
    ),
    Option(
        "--logits",
        "logits",
        ("tflite",),
        {
            "saved_model": "gives the logits of all tokens",
            "litertlm": "gives the logits of the last token, which its runtime reads",
            "xla": "has forward for all tokens, and prefill for the last one",
            **_FIXED,
        },
        {
            "choices": ["last", "all"],
            "help": "tokens of a prompt that prefill projects to logits (default: "
            "last)",
        },
    ),
    Option(
        "--cache-outputs",
        "cache_outputs",
        ("tflite",),
        {
            "saved_model": "keeps its caches inside a call",
            "litertlm": "returns what its runtime asks for",
            "xla": "returns caches that take the place of those it is given",
            **_FIXED,
        },
        {
            "choices": ["whole", "row"],
            "help": "what decode returns of the caches, all of them or the token's own "
            "rows (default: whole)",
        },
    ),
    Option(
        "--signature",
        "signatures",
        ("saved_model", "xla"),
        {
            "tflite": "always has the signatures prefill and decode",
            "litertlm": "always has the signatures that its runtime asks for",
            **_FIXED,
        },
        {
            "action": "append",
            "metavar": "NAME",
            "help": "a signature to write; may be repeated. saved_model has "
            "serving_default, generate, generate_beam (default: all three), or "
            "generate_text alone; xla has forward, prefill, decode (default: these "
            "three) and train_step",
        },
    ),
    Option(
        "--skip-zeros",
        "skip_zeros",
        ("saved_model", "xla"),
        {
            "tflite": "skips zeros by a delegate, with the same file",
            "litertlm": "does not skip zeros",
            **_FIXED,
        },
        {
            "choices": ["cpu"],
            "help": "add a graph, or programs with --sparse, that skip zeros on CPUs "
            "where this package's library is loaded",
        },
    ),
    Option(
        "--prompt-length",
        "prompt_length",
        ("tflite", "litertlm", "xla"),
        {"saved_model": _ANY_LENGTH, **_FIXED},
        {
            **_TOKENS,
            "help": "longest prompt; for litertlm longest piece of one (default: 64, "
            "or the cache where that is shorter)",
        },
        signatures=("prefill",),
        group=_SIZES,
    ),
    Option(
        "--cache-length",
        "cache_length",
        ("tflite", "litertlm", "xla"),
        {"saved_model": _ANY_LENGTH, **_FIXED},
        {
            **_TOKENS,
            "help": "longest prompt with its continuation (default: the model's "
            "context)",
        },
        signatures=("prefill", "decode"),
        group=_SIZES,
    ),
    Option(
        "--sequence-length",
        "sequence_length",
        ("xla",),
        {
            "saved_model": _ANY_LENGTH,
            "tflite": "has --prompt-length and --cache-length in its place",
            "litertlm": "has --prompt-length and --cache-length in its place",
            **_FIXED,
        },
        {**_TOKENS, "help": "tokens per call (default: the model's context)"},
        signatures=("forward", "train_step"),
        group=_SIZES,
    ),
    Option(
        "--batch-size",
        "batch_size",
        ("xla",),
        {
            "saved_model": "takes any batch",
            "tflite": "runs one sequence at a time",
            "litertlm": "runs one sequence at a time",
            **_FIXED,
        },
        {"type": int, "metavar": "ROWS", "help": "sequences per call (default: 1)"},
        group=_SIZES,
    ),
    Option(
        "--precision",
        "precision",
        ("xla",),
        {
            "saved_model": "stores and computes float32",
            "tflite": "has --quantize in its place",
            "litertlm": "has --quantize in its place",
            **_FIXED,
        },
        {
            "help": "precision of the programs, such as mixed_bfloat16 (default: the "
            "model's)"
        },
        group=_XLA,
    ),
    Option(
        "--base-model",
        "base_model",
        ("peft",),
        dict.fromkeys(
            ("saved_model", "tflite", "litertlm", "xla", "huggingface", "keras_nlp"),
            "holds the whole model",
        ),
        {
            "metavar": "NAME",
            "help": "name or folder of the base, which PEFT loads (default: the name "
            "of the run that was fine-tuned)",
        },
    ),
    Option(
        "--unpack",
        "unpack",
        ("xla",),
        {
            "saved_model": "stores its variables dense",
            "tflite": "unpacks its weights when it is loaded",
            "litertlm": "unpacks its weights when it is loaded",
            **_FIXED,
        },
        {
            "choices": ["load", "step"],
            "help": "with --sparse: decode kernels once at load (the default), or "
            "inside every call",
        },
        needs="--sparse",
        group=_XLA,
    ),
    Option(
        "--no-check",
        "check",
        ("xla",),
        {
            "saved_model": "is always run before it is delivered",
            "tflite": "is always run before it is delivered",
            "litertlm": "is always run before it is delivered",
            **_FIXED,
        },
        {
            "action": "store_false",
            "help": "do not run the programs, which needs memory for the model",
        },
        group=_XLA,
    ),
)


def add_options(parser: ArgumentParser) -> None:
    """Adds the options of the table; those that are not given have no value at all."""
    groups: dict[str, Any] = {"": parser}
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        argument: dict[str, Any] = {**option.argument, "dest": option.keyword}
        if option.group != _XLA:  # its title says so
            argument["help"] = f"for {_joined(option.formats)}: {argument['help']}"
        groups[option.group].add_argument(option.flag, default=SUPPRESS, **argument)


def given_options(args: Namespace) -> dict[str, Any]:
    """Returns the exporter's keywords that the command line gives.

    Raises:
        InputError: If the format, or another option, leaves an option without effect.
    """
    given = {option.keyword: option for option in OPTIONS if option.keyword in args}
    flags = {option.flag for option in given.values()}
    signatures = getattr(args, "signatures", [])
    for option in given.values():
        if args.format not in option.formats:
            because = option.because.get(args.format, "has no such option")
            raise InputError(
                f"`{option.flag}` is for {_joined(option.formats)}. Received: "
                f"--format {args.format}, which {because}. Leave it out."
            )
        if option.needs and option.needs not in flags:
            raise InputError(
                f"`{option.flag}` needs `{option.needs}`, without which it changes "
                f"nothing. Add `{option.needs}`, or leave `{option.flag}` out."
            )
        if (
            signatures
            and option.signatures
            and not {*signatures} & {*option.signatures}
        ):
            raise InputError(
                f"`{option.flag}` is for the signature "
                f"{_joined(option.signatures, 'or')}. Received: "
                f"{', '.join(signatures)}, which it does not change. Leave it out."
            )
    return {keyword: getattr(args, keyword) for keyword in given}


def _joined(names: tuple[str, ...], word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last
