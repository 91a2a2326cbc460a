"""`python -m fedloom` is the `fedloom` command."""

from fedloom.cli.main import main

if __name__ == "__main__":
    main()
