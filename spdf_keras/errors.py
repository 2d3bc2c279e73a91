"""The one exception for bad input."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: the argument, what it must be, what
    came, and the way out. It is raised where the value enters; the command
    line prints it without a traceback and exits with status 2.
    """
