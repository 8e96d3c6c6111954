"""The one exception that a user is meant to read."""


class KernregError(Exception):
    """Something the user can act on: one line that names the cause and the remedy.

    The command line prints it without a traceback and exits non-zero.
    """
