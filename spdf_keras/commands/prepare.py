"""Turns a corpus into shards of packed token sequences for pre-training.

A corpus is JSON lines (.jsonl, the Pile's layout: each line is an object with `text`,
or with another key that --text-key names) or plain text (documents are blocks between
blank lines), in files, folders or patterns. Files may be compressed with gzip, bzip2,
xz or zstd. Hidden files are left out and counted. The tokenizer is read from a folder
(vocab.json and merges.txt, or encoder.json and vocab.bpe) or trained on the corpus.

A preparation that was stopped goes on when the same command is given again.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "turn a corpus into token shards"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a file, folder or pattern of .jsonl or .txt, alone or with .gz, .bz2, "
        ".xz or .zst",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the shards"
    )
    parser.add_argument(
        "--context-length",
        type=int,
        default=2048,
        metavar="N",
        help="tokens per training sequence (default: 2048, the paper's)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--tokenizer", metavar="DIR", help="folder with the files of a GPT-2 BPE"
    )
    source.add_argument(
        "--vocabulary-size",
        type=int,
        metavar="N",
        help="train a BPE of N tokens, on 200 MB from the start of the files",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="share of documents to validate on (default: 0.01)",
    )
    parser.add_argument(
        "--text-key",
        default="text",
        metavar="KEY",
        help="key of the text in JSON lines (default: text)",
    )
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="for a line or file that cannot be used: name it and stop, or leave it "
        "out and count it (default: stop)",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import corpus_progress, print_json, print_table, say
    from spdf_keras.data.shards.prepare import prepare
    from spdf_keras.data.tokenizers.bpe import Tokenizer

    size = args.vocabulary_size
    with corpus_progress("prepare") as report:
        index = prepare(
            args.inputs,
            Tokenizer.load(args.tokenizer) if size is None else size,
            args.context_length,
            args.out,
            validation_fraction=args.validation_fraction,
            on_error=args.on_error,
            report=report,
            text_key=args.text_key,
        )
    counts = ("documents", "tokens", "sequences", "tokens_left_out")
    print_table(
        f"{args.out}: sequences of {args.context_length} tokens from "
        f"{index['corpus']['bytes']:,} bytes of text",
        ["Split", "Documents", "Tokens", "Sequences", "Tokens left out"],
        [
            [name, *(f"{split[key]:,}" for key in counts)]
            for name, split in index["splits"].items()
        ],
    )
    if index["corpus"]["empty_documents"]:
        say(f"Left out as empty: {index['corpus']['empty_documents']:,} documents.")
    for kind, counted in index["corpus"]["skipped"].items():
        count = f"{counted['count']:,} {counted.get('unit', 'lines')} ({kind})"
        say(f"Left out: {count}, the first of them {counted['first']}.")
    for reason, counted in index["corpus"].get("files_left_out", {}).items():
        count = f"{counted['count']:,} files or folders ({reason})"
        say(f"Not read: {count}, the first of them '{counted['first']}'.")
    if args.json:
        print_json(index)
