"""`kernreg`: the group of commands, loaded when they are named, and the one line an error is."""

from __future__ import annotations

import errno
import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, Any

import click

from kernreg import __version__
from kernreg.errors import KernregError, one_line
from kernreg.progress import TimeIsUp

COMMANDS = (
    "gram",
    "fit",
    "theory",
    "solve",
    "predict",
    "train",
    "study",
    "submit",
    "info",
    "verify",
    "symmetry",
    "data",
    "bench",
    "doctor",
    "demo",
)


LONGEST = 4000  # characters of an error


class Failure(click.ClickException):
    """One line on stderr, exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"kernreg: error: {one_line(self.message, LONGEST)}", file=file, err=file is None)


class Interrupted(Failure):
    """Ctrl-C or SIGTERM, as a batch system sends at the time limit; shells know it as status 130."""

    exit_code = 130


class Again(Failure):
    """Stopped ahead of a time limit: EX_TEMPFAIL of sysexits.h, upon which a batch script starts the command again."""

    exit_code = 75


class Commands(click.Group):
    """Commands imported by name; failures of the library turned into `Failure`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"kernreg.cli.{cmd_name}").command
        return command

    def main(self, *arguments: Any, **settings: Any) -> Any:
        # The name of a file may be no text in the encoding of the terminal.
        if isinstance(sys.stdout, io.TextIOWrapper):
            with suppress(OSError):  # a disk that refuses says so when something is written
                sys.stdout.reconfigure(errors="backslashreplace")
        with _interruptible():
            return super().main(*arguments, **settings)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        with _told():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    """What a user can act on becomes a `Failure`."""
    try:
        yield
    except (KernregError, NotImplementedError) as error:
        raise Failure(str(error)) from error
    except TimeIsUp:
        raise Again(
            "stopped ahead of the time limit; finished tiles are kept, the same command goes on"
        ) from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted; finished tiles are kept, the same command goes on") from None
    except MemoryError:
        raise Failure("not enough memory; use a smaller --n or --memory") from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise Failure(_reason(error)) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM are a KeyboardInterrupt inside; what they were before, they are behind it."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for known in (signal.SIGINT, signal.SIGTERM):
            before[known] = signal.signal(known, signal.default_int_handler)
    hook, main = sys.unraisablehook, threading.get_ident()

    def again(unraisable: Any) -> None:
        # One that came inside of a callback, as of a weak reference, is lost there: send it once more from outside.
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            timer = threading.Timer(0.02, signal.pthread_kill, (main, signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            hook(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; finished tiles are kept: free some space and run the same command again"
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="kernreg")
def main() -> None:
    """Images → Gram matrix → learning curve → scaling exponent, for infinitely wide networks.

    \b
    kernreg demo                                  four architectures on real images, in two minutes
    kernreg gram --arch lcn --data digits --n 800 one Gram matrix, resumable
    kernreg fit --exponent                        curves and exponents of every Gram matrix made here
    """
