"""Send finished runs to W&B from their folders, whenever there is a network."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt import console
from tinygpt.cli.arguments import unknown_flag
from tinygpt.config import convert
from tinygpt.errors import UserError, nearest
from tinygpt.interfaces import RunInfo

if TYPE_CHECKING:
    from tinygpt.components.loggers.wandb import WandbConfig
    from tinygpt.records.read import RunRecord

HELP = """\
python -m tinygpt.upload run=RUN_OR_SWEEP ... [project=NAME] [entity=NAME] [tags=[A,B]]

Sends runs to W&B from their folders: config, rows at their steps and times, samples, summary, and
how they ended. A run keeps its name, so what W&B has of it already is not sent twice.

  python -m tinygpt.upload run=latest
  python -m tinygpt.upload run=outputs/SWEEP project=my-question

Log in once with `wandb login`, or set WANDB_API_KEY. The fields are those of logger=wandb; where
they are not typed they are those of the run, if it had that logger.
"""
_OPTIONS = ("project", "entity", "tags", "notes", "timeout_s")
_OVER = ("finished", "failed", "interrupted", "stopped", "dead", "paused")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 only if every run was sent."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(console.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    places, options = _parse(arguments)
    from tinygpt.records.read import find_runs, read_runs

    outputs = Path(options.pop("output_dir", "outputs"))
    configs = {
        run: _config(run, options) for run in read_runs(find_runs(places, output_dir=outputs))
    }
    console.log_to_console()
    code = 0
    for run, cfg in configs.items():
        try:
            print(f"{run.path}: {_send(run, cfg)}", flush=True)
        except UserError as error:
            print(f"error: {run.path}: {error}", file=sys.stderr, flush=True)
            code = 1
    return code


def _parse(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    places, options = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise unknown_flag("upload", argument, arguments, flags=("--help",), peers_names={})
        if not equals:
            raise UserError(f"{argument!r} is not understood; type run={argument}")
        if key == "run":
            places.append(value)
        elif key in (*_OPTIONS, "output_dir"):
            options[key] = value
        else:
            match = nearest(key, ("run", *_OPTIONS))
            hint = f"; did you mean {match}=?" if match else ""
            raise UserError(f"{key} is not a field{hint}\n  fields: run, {', '.join(_OPTIONS)}")
    if not places:
        raise UserError("type which run to send: run=latest, or run=outputs/SWEEP")
    return places, options


def _config(run: "RunRecord", options: dict[str, str]) -> "WandbConfig":
    """The logger's config: what was typed, over what the run had."""
    from tinygpt.components.loggers.wandb import WandbConfig
    from tinygpt.config.overrides import parse

    known = {field.name for field in fields(WandbConfig)} - {"name", "mode"}
    had = (run.config.get("logger") or {}).get("wandb") or {}
    values = {key: value for key, value in had.items() if key in known}
    for key, text in options.items():
        (override,) = parse([f"{key}={text}"])
        values[key] = convert(WandbConfig, key, override.value(), field_name=key)
    return WandbConfig(**values)


def _send(run: "RunRecord", cfg: "WandbConfig") -> str:
    """Send one run; what was done, in words."""
    from tinygpt.components.loggers.wandb import WandbLogger

    if run.status not in _OVER:
        raise UserError(f"it is {run.status}; a run is sent when it is over")
    info = RunInfo(
        folder=run.path,
        id=run.id,
        group=run.group,
        config=run.config,
        derived=run.derived,
        resumed_at=None,
    )
    samples = {
        int(path.stem.rpartition("-")[2]): path.read_text("utf-8", errors="replace")
        for path in (run.path / "samples").glob("step-*.txt")
    }
    ended = {"finished": "finished", "stopped": "finished", "failed": "failed"}
    new = WandbLogger(cfg).upload(
        info,
        run.rows,
        samples,
        status=ended.get(run.status, "interrupted"),
        summary={**run.summary, "status": run.status},
        started_s=datetime.fromisoformat(run.started_at).timestamp(),
    )
    return f"{new} of {len(run.rows)} rows were new and are sent"


if __name__ == "__main__":
    main()
