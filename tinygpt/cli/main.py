"""The command `tinygpt`, and `python -m tinygpt`, which is the same."""

import sys
from importlib import import_module

from tinygpt.cli.arguments import print_version
from tinygpt.console import fail
from tinygpt.errors import nearest

COMMANDS = {
    "train": "train a model; prepares its data if need be",
    "prepare": "make a dataset's tokens ready, once for all runs",
    "data": "look at a dataset and its tokens; choose a vocabulary",
    "sample": "write text with a trained model",
    "plan": "what a run or a sweep will take: memory, disk and time",
    "compare": "rank runs and sweeps, with intervals over seeds; draw their curves",
    "runs": "list, find and delete runs",
    "upload": "send finished runs to W&B from their folders",
}


def main() -> None:
    """The console script: `tinygpt train model=small` is `python -m tinygpt.train model=small`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        lines = [f"  tinygpt {name:<8} {what}" for name, what in COMMANDS.items()]
        print("tinygpt: a lab bench for small language models\n")
        print("\n".join(lines))
        print("\n`tinygpt COMMAND --help` says what a command takes.")
    elif command == "--version":
        print_version()
    elif command in COMMANDS:
        import_module(f"tinygpt.{command}").main(arguments)
    else:
        match = nearest(command, COMMANDS)
        hint = f"; did you mean tinygpt {match}?" if match else ""
        fail(f"{command} is not a command{hint}\n  commands: {', '.join(COMMANDS)}")
