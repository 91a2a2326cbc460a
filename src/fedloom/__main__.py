"""`python -m fedloom` is the `fedloom` command."""

from fedloom.cli import main

if __name__ == "__main__":
    main()
