"""`python -m ffhqref`: the same as the command `ffhqref`."""

from ffhqref.cli import main

if __name__ == "__main__":
    main()
