"""`python -m kernreg` is `kernreg`."""

from kernreg.cli.main import main

if __name__ == "__main__":
    main()
