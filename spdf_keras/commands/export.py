"""Exports a run's model, or a preset's initial weights, to what runs elsewhere.

    spdf-keras export RUN --format tflite --sparse --out gpt.tflite
    spdf-keras export gpt2_small --sparsity 0.75 --format xla --sparse --out gpt_xla

`saved_model` runs in plain TensorFlow, `tflite` in LiteRT, `xla` in JAX or any
runtime of StableHLO. The card that is printed is stored with the artefact.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from spdf_keras.commands.arguments import add_json, open_run

HELP = "export a run's model"

_TEXT = "generate_text"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN", help="a run, or a preset such as gpt2_small"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=["saved_model", "tflite", "xla"],
        help="what to write",
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that is there"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="tflite, xla: store only the weights that are kept",
    )
    parser.add_argument(
        "--quantize",
        choices=["fp16", "int8"],
        help="tflite: store weights in half or a quarter of the bytes",
    )
    parser.add_argument(
        "--signature",
        action="append",
        default=[],
        metavar="NAME",
        help="what to write of it; may be repeated. saved_model: serving_default, "
        "generate, generate_beam (all by default), or generate_text alone; xla: "
        "forward, prefill, decode (by default) and train_step",
    )
    parser.add_argument(
        "--sparsity", type=float, help="of a preset's masks (default: 0)"
    )
    sizes = parser.add_argument_group("fixed sizes of tflite and xla")
    sizes.add_argument("--prompt-length", type=int, default=0, help="default: 64")
    sizes.add_argument("--cache-length", type=int, default=0, help="default: context")
    sizes.add_argument("--sequence-length", type=int, default=0, help="xla; context")
    sizes.add_argument("--batch-size", type=int, default=1, help="xla (default: 1)")
    xla = parser.add_argument_group("xla")
    xla.add_argument(
        "--precision", help="what programs compute in, such as mixed_bfloat16"
    )
    xla.add_argument(
        "--unpack",
        choices=["load", "step"],
        default="load",
        help="with --sparse: decode kernels once at load, or inside every step",
    )
    xla.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not run the programs, which needs memory for the model",
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
    """Refuses what a format cannot have, before anything is loaded."""
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
    """A run, or the name of a preset."""
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
    from spdf_keras.evaluation.texts import end_token_ids
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
