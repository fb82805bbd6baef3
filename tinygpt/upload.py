"""Upload: send ended runs to W&B from their folders."""

import sys
from collections.abc import Sequence

from tinygpt import console
from tinygpt.cli.arguments import output_folder, parse_settings
from tinygpt.errors import UserError, visible

HELP = """\
python -m tinygpt.upload run=RUN_OR_SWEEP ... [project=NAME] [entity=NAME] [tags=[A,B]]

Sends runs to W&B from their folders: config, rows at their steps and times, samples, summary, and
status. A run keeps its id, so rows that W&B already has are not sent again.

  python -m tinygpt.upload run=latest
  python -m tinygpt.upload run=outputs/SWEEP project=my-question

Log in once with `wandb login`, or set WANDB_API_KEY. The fields are those of logger=wandb; a field
that you do not type keeps the run's own value, if the run used that logger.
"""
_OPTIONS = ("project", "entity", "tags", "notes", "timeout_s")


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point; exits with 0 only if every run was sent."""
    if not arguments or {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    values, _ = parse_settings(
        "upload",
        arguments,
        names=("run", *_OPTIONS, "output_dir"),
        repeatable=("run",),
        may_be_empty=("notes",),
    )
    outputs = output_folder(values.pop("output_dir", ()))
    places = values.pop("run", [])
    if not places:
        raise UserError("type which run to send: run=latest, or run=outputs/SWEEP")
    from tinygpt.records.find import find_runs
    from tinygpt.records.read import read_runs
    from tinygpt.records.upload import send, wandb_config

    options = {name: texts[0] for name, texts in values.items()}
    runs = read_runs(find_runs(places, output_dir=outputs))
    # check every config before sending the first run
    configs = {run: wandb_config(run, options) for run in runs}
    console.log_to_console()
    code = 0
    for run, cfg in configs.items():
        try:
            print(visible(f"{run.path}: {send(run, cfg)}"), flush=True)
        except UserError as error:
            print(visible(f"error: {run.path}: {error}"), file=sys.stderr, flush=True)
            code = 1
    return code


if __name__ == "__main__":
    main()
