"""The command `spdf-keras`.

Parsing needs neither TensorFlow nor NumPy: `--help` answers at once. Each
subcommand is a module of `spdf_keras.commands` with `HELP`, `add_arguments` and
`run`; a name of two words is one subcommand. Its errors name keywords of the library,
which become options here. `OPTIONS` of a module has those that are not found by their
names.
"""

import argparse
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from signal import SIGINT, SIGTERM

from spdf_keras import __version__
from spdf_keras.errors import ExportError, InputError, StoppedError, TrainingError
from spdf_keras.files import write_failure

COMMANDS = (
    "quickstart",
    "fetch",
    "prepare",
    "convert",
    "pretrain",
    "finetune",
    "merge",
    "generate",
    "evaluate",
    "score",
    "perplexity",
    "study",
    "report",
    "flops",
    "export",
    "serve",
    "benchmark",
    "benchmark matmul",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    The status is 0 after success, 2 after bad input (with one sentence on the standard
    error stream), 1 if the system refused something, an export failed or a training
    cannot go on, and 128 plus the number of the signal that stopped the command: 130
    after an interrupt, 143 after a termination.
    """
    parser = build_parser()
    args = parser.parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        with _termination_as_interrupt():
            args.run(args)
    except (InputError, ExportError, TrainingError) as error:
        message = in_options(str(error), args.help_text(), args.names)
        print(f"spdf-keras {args.command}: error: {message}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except StoppedError as stopped:
        print(f"\nspdf-keras {args.command}: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt as interrupt:
        number = SIGTERM if isinstance(interrupt, _Termination) else SIGINT
        word = "terminated" if number == SIGTERM else "interrupted"
        message = f"{word}; what was finished or checkpointed is kept"
        print(f"\nspdf-keras {args.command}: {message}.", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the program that read the output has ended
        sys.stderr.close()
        return 1
    except MemoryError:
        message = "there is not enough memory for these settings"
        print(f"spdf-keras {args.command}: error: {message}.", file=sys.stderr)
        return 1
    except OSError as error:
        place = f": '{error.filename}'" if error.filename else ""
        reason = error.strerror or error
        print(f"spdf-keras {args.command}: error: {reason}{place}.", file=sys.stderr)
        return 1
    except Exception as error:
        if reason := write_failure(error):  # an error of a library that writes itself
            print(f"spdf-keras {args.command}: error: {reason}.", file=sys.stderr)
            return 1
        raise
    return 0


def in_options(message: str, help_text: str, names: Mapping[str, str]) -> str:
    """Names a command's options where a message names keywords of the library.

    Args:
        message: It has keywords as `` `name` `` and as `name=value`.
        help_text: The command's help, which has its options.
        names: Options of keywords that are not found there by their names.

    Example:
        >>> in_options("`a_b` must be 1: a_b=2. Take c=True.", "--a-b --c", {})
        '`--a-b` must be 1: --a-b 2. Take --c.'
    """
    known = set(re.findall(r"--[a-z-]+", help_text))

    def replace(match: re.Match[str]) -> str:
        name = match["quoted"] or match["plain"]
        option = names.get(name, "--" + name.replace("_", "-"))
        if name not in names and option not in known:
            return match[0]
        if match["quoted"]:
            option = f"`{option}`"
        value = (match["value"] or "").replace("'", "")
        flag = value.removeprefix("True")  # what follows it is punctuation
        return option + (flag if flag != value or not value else f" {value}")

    # `train.name=value` is a setting, and `--name=value` an option already.
    name = r"`(?P<quoted>\w+)`|(?<![\w.-])(?P<plain>\w+)(?==)"
    return re.sub(rf"(?:{name})(?:=(?P<value>'[^']*'|\S+))?", replace, message)


class _Termination(KeyboardInterrupt):
    """A SIGTERM, after which a command saves its work as after an interrupt."""


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Raises `_Termination` at the first SIGTERM; a second one ends the process.

    A signal that comes during a callback of the garbage collector, where Python drops
    exceptions, is sent once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        signal.signal(SIGTERM, before)
        raise _Termination

    def send_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            report(dropped)
            return
        number = SIGINT
        if isinstance(dropped.exc_value, _Termination):
            number = SIGTERM
            signal.signal(SIGTERM, handle)
        main = threading.main_thread().ident
        # Until then the callback has ended.
        threading.Timer(0.05, signal.pthread_kill, (main, number)).start()

    before = signal.signal(SIGTERM, handle) or signal.SIG_DFL
    report, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(SIGTERM, before)


def _joined(words: Sequence[str]) -> list[str]:
    """Joins the words of a command's name, such as `benchmark matmul`, into one."""
    for name in COMMANDS:
        parts = name.split()
        if len(parts) > 1 and list(words[: len(parts)]) == parts:
            return [name, *words[len(parts) :]]
    return list(words)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="spdf-keras",
        description="Sparse pre-training and dense fine-tuning of GPT models.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"spdf_keras.commands.{name.replace(' ', '_')}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(
            run=module.run,
            help_text=subparser.format_help,
            names=getattr(module, "OPTIONS", {}),
        )
    return parser
