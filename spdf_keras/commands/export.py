"""Exports a run's model, or a preset's initial weights, to what runs elsewhere.

    spdf-keras export RUN --format tflite --sparse --out gpt.tflite
    spdf-keras export gpt2_small --sparsity 0.75 --format xla --sparse --out gpt_xla

`saved_model` runs in plain TensorFlow, `tflite` in LiteRT, `litertlm` in LiteRT-LM,
`xla` in JAX or any runtime of StableHLO. The card that is printed is stored with the
artefact.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from spdf_keras.commands.arguments import add_json

HELP = "export a run's model"

_TEXT = "generate_text"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN", help="folder of a run, or a preset such as gpt2_small"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=list(_EXPORTERS),
        help="format to write",
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that is there"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="for tflite, litertlm and xla: store only the weights that masks keep",
    )
    parser.add_argument(
        "--quantize",
        choices=["fp16", "int8"],
        help="for tflite and litertlm: store weights in half or a quarter of the bytes",
    )
    parser.add_argument(
        "--logits",
        choices=["last", "all"],
        help="for tflite: tokens of a prompt that prefill projects to logits "
        "(default: last)",
    )
    parser.add_argument(
        "--signature",
        action="append",
        default=[],
        metavar="NAME",
        help="a signature to write; may be repeated. For saved_model: serving_default, "
        "generate, generate_beam (default: all three), or generate_text alone; for "
        "xla: forward, prefill, decode (default: these three) and train_step",
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        help="sparsity of a preset's masks (default: 0)",
    )
    parser.add_argument(
        "--skip-zeros",
        choices=["cpu"],
        help="for saved_model, and for xla with --sparse: add graphs or programs that "
        "skip zeros on CPUs where this package's library is loaded",
    )
    sizes = parser.add_argument_group("fixed sizes of tflite, litertlm and xla")
    sizes.add_argument(
        "--prompt-length",
        type=int,
        default=0,
        metavar="TOKENS",
        help="longest prompt; for litertlm longest piece of one (default: 64, or the "
        "cache where that is shorter)",
    )
    sizes.add_argument(
        "--cache-length",
        type=int,
        default=0,
        metavar="TOKENS",
        help="longest prompt with its continuation (default: the model's context)",
    )
    sizes.add_argument(
        "--sequence-length",
        type=int,
        default=0,
        metavar="TOKENS",
        help="tokens per call for xla (default: the model's context)",
    )
    sizes.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="ROWS",
        help="sequences per call for xla (default: 1)",
    )
    xla = parser.add_argument_group("xla")
    xla.add_argument(
        "--precision",
        help="precision of the programs, such as mixed_bfloat16 (default: the model's)",
    )
    xla.add_argument(
        "--unpack",
        choices=["load", "step"],
        default="load",
        help="with --sparse: decode kernels once at load, or inside every call",
    )
    xla.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not run the programs, which needs memory for the model",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_table, say
    from spdf_keras.export.sources import resolve_source
    from spdf_keras.training.run import Run

    _check(args)
    source = resolve_source(args.source, args.sparsity)
    if isinstance(source, Run) and (caution := source.caution()):
        say(caution)
    load_tensorflow()
    card = _EXPORTERS[args.format](source, args)
    print_table(args.source, card.columns, [card.row()])
    for note in card.notes:
        print(f"- {note}")
    for runtime in card.runtimes:
        does = "skips" if runtime.skips_zeros else "does not skip"
        print(f"- {runtime.name} {does} the zeros. {runtime.reason}")
    if args.json:
        print(card.to_json())


def _check(args: Namespace) -> None:
    """Refuses arguments that a format does not have, before anything is loaded."""
    from spdf_keras.config import PRESETS
    from spdf_keras.errors import InputError

    if args.format == "saved_model" and args.sparse:
        raise InputError(
            "`--sparse` is for tflite, litertlm and xla: a SavedModel stores its "
            "variables dense. Leave it out."
        )
    if args.format not in _LITERT and args.quantize:
        way_out = (
            "take --precision mixed_bfloat16 or mixed_float16 for xla"
            if args.format == "xla"
            else "take --format tflite"
        )
        raise InputError(
            "`--quantize` is for tflite and litertlm. Received: --format "
            f"{args.format}; {way_out}."
        )
    if args.format in _LITERT and args.skip_zeros:
        raise InputError(
            "`--skip-zeros` is for saved_model and xla. Received: --format "
            f"{args.format}. Leave it out."
        )
    if args.format != "tflite" and args.logits:
        raise InputError(
            f"`--logits` is for tflite. Received: --format {args.format}. Leave it out."
        )
    if args.format in _LITERT and args.signature:
        raise InputError(
            f"The signatures of {args.format} are always prefill and decode. Leave "
            "`--signature` out."
        )
    if args.format == "litertlm":
        from spdf_keras.export.litertlm.bundle import check_path, require_builder

        check_path(args.out)
        require_builder()
        if args.source in PRESETS:
            raise InputError(
                "`--format litertlm` needs a run, which has a tokenizer. Received: "
                f"the preset {args.source}."
            )
    if _TEXT in args.signature and len(args.signature) > 1:
        raise InputError(
            f"`--signature {_TEXT}` needs a folder of its own: it takes strings. "
            "Export it apart from the others."
        )
    if _TEXT in args.signature and args.source in PRESETS:
        raise InputError(
            f"`--signature {_TEXT}` needs a run, which has a tokenizer. Received: "
            f"the preset {args.source}."
        )


def _saved_model(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_saved_model, to_text_model

    options = _options(args, "overwrite", "sparsity", "skip_zeros")
    if _TEXT in args.signature:
        return to_text_model(source, None, args.out, **options)
    return to_saved_model(source, args.out, **options, **_signatures(args))


def _tflite(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_tflite

    options = _options(
        args, "sparse", "prompt_length", "cache_length", "overwrite", "sparsity"
    )
    options["logits"] = args.logits or "last"
    return to_tflite(source, args.out, quantize=args.quantize or "none", **options)


def _litertlm(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_litertlm

    options = _options(args, "sparse", "prompt_length", "cache_length", "overwrite")
    return to_litertlm(source, args.out, quantize=args.quantize or "none", **options)


def _xla(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_xla

    options = _options(
        args,
        *("sparse", "unpack", "skip_zeros", "sparsity", "precision", "batch_size"),
        *("sequence_length", "prompt_length", "cache_length", "check", "overwrite"),
    )
    return to_xla(source, args.out, **options, **_signatures(args))


def _options(args: Namespace, *names: str) -> dict[str, Any]:
    """Collects arguments that have the names of an exporter's keywords."""
    return {name: getattr(args, name) for name in names}


def _signatures(args: Namespace) -> dict[str, Any]:
    return {"signatures": tuple(args.signature)} if args.signature else {}


_EXPORTERS = {
    "saved_model": _saved_model,
    "tflite": _tflite,
    "litertlm": _litertlm,
    "xla": _xla,
}
# The formats that LiteRT runs.
_LITERT = ("tflite", "litertlm")
