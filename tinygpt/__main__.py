"""`python -m tinygpt train model=small` is `tinygpt train model=small`."""

from tinygpt.cli.main import main

if __name__ == "__main__":
    main()
