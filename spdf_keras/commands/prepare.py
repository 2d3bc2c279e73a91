"""Turns text files into packed token shards for pre-training.

Documents are blocks of text between blank lines. A tokenizer is read from a
folder (vocab.json and merges.txt, or encoder.json and vocab.bpe) or trained on
the text itself.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "turn text files into token shards"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a .txt or .txt.gz file"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--context-length",
        type=int,
        default=2048,
        metavar="N",
        help="tokens per training sequence (default: 2048, the paper's)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokenizer", metavar="DIR", help="folder of a GPT-2 BPE")
    source.add_argument(
        "--vocabulary-size", type=int, metavar="N", help="train a BPE of N tokens"
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="share of documents to validate on (default: 0.01)",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table
    from spdf_keras.data.corpus import read_documents
    from spdf_keras.data.shards import write_shards
    from spdf_keras.data.tokenizer import Tokenizer

    if args.tokenizer:
        tokenizer = Tokenizer.load(args.tokenizer)
    else:
        tokenizer = Tokenizer.train(read_documents(args.files), args.vocabulary_size)
    index = write_shards(
        read_documents(args.files),
        tokenizer,
        args.context_length,
        args.out,
        args.validation_fraction,
    )
    print_table(
        f"{args.out}: sequences of {args.context_length} tokens, "
        f"vocabulary of {tokenizer.vocabulary_size}",
        ["Split", "Documents", "Tokens", "Sequences", "Tokens left out"],
        [
            [
                name,
                *(
                    f"{split[key]:,}"
                    for key in ("documents", "tokens", "sequences", "tokens_left_out")
                ),
            ]
            for name, split in index["splits"].items()
        ],
    )
    if args.json:
        print_json(index)
