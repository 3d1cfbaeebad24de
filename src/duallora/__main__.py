"""`python -m duallora`: the same as the command `duallora`."""

from duallora.cli import main

if __name__ == "__main__":
    main()
