"""Make `python -m tinygpt` the same as the command `tinygpt`."""

from tinygpt.cli.main import main

if __name__ == "__main__":
    main()
