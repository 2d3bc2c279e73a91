"""The exceptions that the command line reports in one sentence."""


class InputError(ValueError):
    """The user's input cannot be used.

    The message is one sentence or two: the argument, what it must be, what was
    received, and a way out. It is raised where the value enters. The command line
    prints it without a traceback and exits with status 2.
    """


class BusyError(InputError):
    """Another process holds a place; it is free again when that process ends."""


class ExportError(RuntimeError):
    """An artefact is wrong or does not run, or the disk did not take it.

    An exporter that raises it has delivered none.
    """


class TrainingError(RuntimeError):
    """A training cannot go on; its last checkpoint is unchanged."""


class StoppedError(Exception):
    """A signal has stopped a training, after a checkpoint was written.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
