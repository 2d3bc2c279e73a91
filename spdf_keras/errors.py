"""The exceptions that the command line tells in one sentence."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: the argument, what it must be, what
    came, and the way out. It is raised where the value enters; the command
    line prints it without a traceback and exits with status 2.
    """


class ExportError(RuntimeError):
    """An artefact did not compute what the model computes; none was delivered."""


class TrainingError(RuntimeError):
    """A training cannot go on; its last checkpoint is as good as it was."""


class StoppedError(Exception):
    """A signal has stopped a training, after a checkpoint was written.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
