"""The exceptions that the command line tells in one sentence."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: the argument, what it must be, what
    came, and the way out. It is raised where the value enters; the command
    line prints it without a traceback and exits with status 2.
    """


class ExportError(RuntimeError):
    """An artefact did not compute what the model computes; none was delivered."""
