"""Exports a run's model, or a preset's initial weights, to what runs elsewhere.

    spdf-keras export RUN --format tflite --sparse --out gpt.tflite
    spdf-keras export gpt2_small --sparsity 0.75 --format xla --sparse --out gpt_xla

`saved_model` runs in plain TensorFlow, `tflite` in LiteRT, `litertlm` in LiteRT-LM,
`xla` in JAX or any runtime of StableHLO. `huggingface` is a checkpoint that
transformers loads, `keras_nlp` a preset of KerasNLP. `peft` is the adapter of a
fine-tuning with LoRA, and nothing else of the run; the other formats take such a run
after `spdf-keras merge`. The card that is printed is stored with the artefact.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from spdf_keras.commands.arguments import add_json
from spdf_keras.commands.export_options import add_options, given_options

HELP = "export a run's model"
OPTIONS = {"model": "RUN", "path": "--out", "signatures": "--signature"}

_EXPORTERS = {
    "saved_model": "to_saved_model",
    "tflite": "to_tflite",
    "litertlm": "to_litertlm",
    "xla": "to_xla",
    "huggingface": "to_huggingface",
    "keras_nlp": "to_keras_nlp_preset",
    "peft": "to_peft",
}
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
        "--sparsity",
        type=float,
        help="sparsity of a preset's masks (default: 0)",
    )
    add_options(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras import export
    from spdf_keras.console import load_tensorflow, print_table, say
    from spdf_keras.export.sources import resolve_source
    from spdf_keras.training.run import Run

    options = given_options(args)
    is_text = _check(args, options)
    adapted = args.format == "peft"
    source = resolve_source(args.source, args.sparsity, adapted=adapted)
    if isinstance(source, Run) and (caution := source.caution()):
        say(caution)
    load_tensorflow()
    options |= {"sparsity": args.sparsity, "overwrite": args.overwrite}
    if is_text:
        card = export.to_text_model(source, None, args.out, **options)
    else:
        exporter = getattr(export, _EXPORTERS[args.format])
        card = exporter(source, args.out, **options)
    print_table(args.source, card.columns, [card.row()])
    for note in card.notes:
        print(f"- {note}")
    for runtime in card.runtimes:
        does = "skips" if runtime.skips_zeros else "does not skip"
        oldest = runtime.minimum_version
        version = f" It needs {oldest} or later." if oldest else ""
        print(f"- {runtime.name} {does} the zeros. {runtime.reason}{version}")
    if args.json:
        print(card.to_json())


def _check(args: Namespace, options: dict[str, Any]) -> bool:
    """Refuses arguments before anything is loaded; tells whether text is exported."""
    from spdf_keras.config import PRESETS
    from spdf_keras.errors import InputError
    from spdf_keras.export.card import card_path
    from spdf_keras.export.targets import KNOWN_BY, check_target

    folder_with = KNOWN_BY.get(args.format)
    beside = None if folder_with else card_path(args.out)
    check_target(args.out, args.overwrite, folder_with, beside)
    if args.format == "litertlm":
        from spdf_keras.export.litertlm.bundle import check_path, require_builder

        check_path(args.out)
        require_builder()
        if args.source in PRESETS:
            raise InputError(
                "`--format litertlm` needs a run, which has a tokenizer. Received: "
                f"the preset {args.source}."
            )
    if args.format != "saved_model" or _TEXT not in options.get("signatures", ()):
        return False
    if len(options.pop("signatures")) > 1:
        raise InputError(
            f"`--signature {_TEXT}` needs a folder of its own: it takes strings. "
            "Export it apart from the others."
        )
    if args.source in PRESETS:
        raise InputError(
            f"`--signature {_TEXT}` needs a run, which has a tokenizer. Received: "
            f"the preset {args.source}."
        )
    return True
