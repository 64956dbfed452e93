"""`python -m prefenvs` is the command line."""

from prefenvs.cli import main

if __name__ == "__main__":
    main()
