"""`python -m kernreg` is `kernreg`."""

import signal


def main() -> None:
    """The command line. A signal on the way in or out ends the process without a traceback of an import."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kernreg.cli.main import main as commands

    commands(prog_name="kernreg")


if __name__ == "__main__":
    main()
