"""The command `tinygpt`, also available as `python -m tinygpt`."""

import sys
from importlib import import_module

from tinygpt.cli.arguments import print_version
from tinygpt.console import fail
from tinygpt.errors import did_you_mean

COMMANDS = {
    "train": "train a model; prepares its data if need be",
    "prepare": "tokenize a dataset, once for all runs",
    "data": "show statistics of a dataset and its tokens; choose a vocabulary",
    "sample": "write text with a trained model",
    "evaluate": "measure what trained models can do, offline, with intervals",
    "serve": "show runs and try models in a browser; answer OpenAI's API",
    "export": "write a trained model for transformers, llama.cpp, llama2.c or onnxruntime",
    "plan": "estimate the memory, disk and time of a run or a sweep",
    "coordinates": "check whether activations keep their size when a model is made wider",
    "compare": "rank runs and sweeps, with confidence intervals over seeds; draw their curves",
    "speedrun": "time whole runs to a fixed loss, and write the leaderboard",
    "runs": "list, find and delete runs",
    "upload": "send finished runs to W&B from their folders",
}


def main() -> None:
    """Entry point of the console script: `tinygpt train` equals `python -m tinygpt.train`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        lines = [f"  tinygpt {name:<11} {what}" for name, what in COMMANDS.items()]
        print("tinygpt: a lab bench for small language models\n")
        print("\n".join(lines))
        print("\n`tinygpt COMMAND --help` says what a command takes.")
    elif command == "--version":
        print_version()
    elif command in COMMANDS:
        import_module(f"tinygpt.{command}").main(arguments)
    else:
        hint = did_you_mean(command, COMMANDS, "tinygpt ")
        fail(f"{command} is not a command{hint}\n  commands: {', '.join(COMMANDS)}")
