"""Exports the model of a run, or the initial weights of a preset, to other runtimes.

    spdf-keras export RUN --format tflite --sparse --out gpt.tflite
    spdf-keras export gpt2_small --sparsity 0.75 --format xla --sparse --out gpt_xla

`saved_model` runs in plain TensorFlow, `tflite` in LiteRT, `xla` in JAX or in any
runtime of StableHLO. The printed card is stored with the exported files.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from spdf_keras.commands.arguments import add_json, open_run

HELP = "export the model of a run"

_TEXT = "generate_text"
# Arguments of fixed sizes: name, default, meaning.
_SIZES = (
    ("--prompt-length", 0, "tokens of the longest prompt (default: 64)"),
    (
        "--cache-length",
        0,
        "tokens of the longest cached sequence (default: the model's context)",
    ),
    ("--sequence-length", 0, "tokens per call for xla (default: the model's context)"),
    ("--batch-size", 1, "sequences per call for xla (default: 1)"),
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN", help="folder of a run, or a preset such as gpt2_small"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=["saved_model", "tflite", "xla"],
        help="format of the export",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="file (tflite) or folder (saved_model, xla) to write",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export at PATH"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="for tflite and xla: store only the weights that the masks keep",
    )
    parser.add_argument(
        "--quantize",
        choices=["fp16", "int8"],
        help="for tflite: store weights in half (fp16) or a quarter (int8) of the size",
    )
    parser.add_argument(
        "--signature",
        action="append",
        default=[],
        metavar="NAME",
        help="entry point to export; may be repeated. saved_model has serving_default, "
        "generate and generate_beam (default: all), or generate_text alone; xla has "
        "forward, prefill and decode (default: these three), and train_step",
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        metavar="S",
        help="sparsity of a preset (default: 0)",
    )
    sizes = parser.add_argument_group("fixed sizes of tflite and xla")
    for name, default, meaning in _SIZES:
        sizes.add_argument(name, type=int, default=default, metavar="N", help=meaning)
    xla = parser.add_argument_group("xla")
    xla.add_argument(
        "--precision",
        metavar="DTYPE",
        help="precision of the programs, such as mixed_bfloat16 (default: that of the "
        "model)",
    )
    xla.add_argument(
        "--unpack",
        choices=["load", "step"],
        default="load",
        help="with --sparse: restore dense kernels once at load (load, the default) or "
        "inside every call (step)",
    )
    xla.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not run the exported programs; running them needs memory for the "
        "model",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_table

    _check(args)
    source = _source(args)
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
    """Refuses options that the format does not have, before anything is loaded."""
    from spdf_keras.errors import InputError

    if args.format == "saved_model" and args.sparse:
        raise InputError(
            "`--sparse` is for tflite and xla: a SavedModel stores its variables "
            "dense. Leave it out."
        )
    if args.format != "tflite" and args.quantize:
        way_out = (
            "take --precision mixed_bfloat16 or mixed_float16 for xla"
            if args.format == "xla"
            else "take --format tflite"
        )
        raise InputError(
            f"`--quantize` is for tflite. Received: --format {args.format}; {way_out}."
        )
    if args.format == "tflite" and args.signature:
        raise InputError(
            "A .tflite file always has the signatures prefill and decode. Leave "
            "`--signature` out."
        )
    if _TEXT in args.signature and len(args.signature) > 1:
        raise InputError(
            f"`--signature {_TEXT}` needs a folder of its own: it takes strings. "
            "Export it apart from the others."
        )


def _source(args: Namespace) -> Any:
    """Opens a run, or returns the name of a preset."""
    from spdf_keras.config import PRESETS
    from spdf_keras.errors import InputError

    if args.source in PRESETS:
        return args.source
    if args.sparsity is not None:
        raise InputError(
            "`--sparsity` is for presets: a run has the masks that it was trained "
            f"with. Received: --sparsity {args.sparsity} for '{args.source}'."
        )
    return open_run(args.source)


def _model(source: Any, args: Namespace) -> Any:
    from spdf_keras import build_gpt

    if isinstance(source, str):
        return build_gpt(source, args.sparsity or 0.0)
    return source.load_model()


def _saved_model(source: Any, args: Namespace) -> Any:
    from spdf_keras.errors import InputError
    from spdf_keras.evaluation import end_token_ids
    from spdf_keras.export import to_saved_model, to_text_model

    is_run = not isinstance(source, str)
    if _TEXT in args.signature:
        if not is_run:
            raise InputError(
                f"`--signature {_TEXT}` needs a run, which has a tokenizer. Received: "
                f"the preset {source}."
            )
        return to_text_model(
            _model(source, args),
            source.tokenizer(),
            args.out,
            args.overwrite,
            separator=source.origin().get("kind") == "finetune",
            settings=source.config().decode,
        )
    options: dict[str, Any] = {}
    if args.signature:
        options["signatures"] = tuple(args.signature)
    if is_run:
        decode = source.config().decode
        options["end_token_ids"] = end_token_ids(source.tokenizer())
        if decode.num_beams > 1:
            options["beam_search"] = decode
    return to_saved_model(_model(source, args), args.out, args.overwrite, **options)


def _tflite(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_tflite

    return to_tflite(
        _model(source, args),
        args.out,
        args.sparse,
        args.prompt_length,
        args.cache_length,
        args.overwrite,
        args.quantize or "none",
    )


def _xla(source: Any, args: Namespace) -> Any:
    from spdf_keras.export import to_xla

    names = [
        *("sparse", "unpack", "sparsity", "precision", "batch_size"),
        *("sequence_length", "prompt_length", "cache_length", "check", "overwrite"),
    ]
    options = {name: getattr(args, name) for name in names}
    if args.signature:
        options["signatures"] = tuple(args.signature)
    return to_xla(source, args.out, **options)


_EXPORTERS = {"saved_model": _saved_model, "tflite": _tflite, "xla": _xla}
