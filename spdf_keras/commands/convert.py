"""Makes a run of a model of another library.

    spdf-keras convert hf:gpt2 --out RUN

`hf:FOLDER` is a GPT-2 checkpoint in Hugging Face's layout, such as GPT-2 or
Cerebras-GPT, `keras_nlp:FOLDER` the preset of a GPT-2 of KerasNLP. Nothing is
downloaded. Every command that takes a run takes the new one.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "make a run of a model of another library"
OPTIONS = {"source": "SOURCE", "folder": "--out"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="hf:FOLDER, or keras_nlp:FOLDER"
    )
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the new run"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="folder with vocab.json and merges.txt, or tokenizer.json, of the model "
        "(default: that of SOURCE)",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_json, print_table, say
    from spdf_keras.interchange.convert import convert, open_source, split_source
    from spdf_keras.interchange.huggingface.tokenizer import read_tokenizer

    kind, _ = split_source(args.source)
    tokenizer = read_tokenizer(args.tokenizer) if args.tokenizer else None
    if kind == "keras_nlp":
        load_tensorflow()
    opened = open_source(args.source)
    load_tensorflow()
    result = convert(opened, args.out, tokenizer=tokenizer, tell=say)
    sizes = opened.sizes
    print_table(
        args.out,
        ["Layers", "Width", "Heads", "Context", "Tokens", "Parameters", "Sparsity"],
        [
            [
                str(sizes.num_layers),
                f"{sizes.hidden_dim:,}",
                str(sizes.num_heads),
                f"{sizes.max_sequence_length:,}",
                f"{sizes.vocabulary_size:,}",
                f"{result['parameters']:,}",
                f"{result['sparsity']:.0%}",
            ]
        ],
    )
    if args.json:
        print_json(result)
