"""The one exception that a user is meant to read, and how it quotes what a file or a user gave."""

from __future__ import annotations


class KernregError(Exception):
    """Something the user can act on: one line that names the cause and the remedy.

    The command line prints it without a traceback and exits non-zero.
    """


def one_line(text: str, most: int = 200) -> str:
    """The text without line breaks and control characters, cut to `most` characters."""
    words = " ".join(text[: 4 * most].split())
    line = "".join(letter if letter.isprintable() else "�" for letter in words)
    return line if len(line) <= most else f"{line[:most]}…"


def reason(error: BaseException) -> str:
    """What an exception says, in one line; its name where it says nothing."""
    return one_line(str(error)) or type(error).__name__


def shown(value: object) -> str:
    """A wrong value in at most 60 characters."""
    try:
        return one_line(repr(value[:100] if isinstance(value, str | bytes) else value), 60)
    except (ValueError, RecursionError):  # a number of more than 4300 digits, or lists in lists in lists
        return f"a {type(value).__name__} too large to show"
