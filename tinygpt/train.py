"""Train: compose the config of each run, then train it."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tinygpt import console
from tinygpt.cli.arguments import parse_arguments, print_config, print_help
from tinygpt.config import overrides
from tinygpt.errors import UserError
from tinygpt.hardware.loading import preload_torch
from tinygpt.hardware.ranks import Ranks
from tinygpt.interchange import starting
from tinygpt.records.folder import new_run_id
from tinygpt.sweeps import scheduler
from tinygpt.training import launch
from tinygpt.training.start import RunStart


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point; exits with 0 only if every run finished."""
    if not Ranks().is_main:
        return _take_part(arguments)
    args = parse_arguments("train", arguments)
    if args.help:
        return print_help("train")
    console.log_to_console()
    if any(text.startswith("resume=") for text in args.settings):
        if args.multirun or args.config_dir:
            raise UserError("resume= goes on with one run as it is; type it without -m and -cd")
        job = launch.resumed(args.settings)
        return print_config(job.start.cfg) if args.cfg else launch.launch(job)
    if args.multirun:
        return scheduler.run_sweep(args.settings, command=arguments, config_dir=args.config_dir)
    for text in filter(scheduler.is_about_sweeps, args.settings):
        raise UserError(f"{text} is about several runs; type -m before it")
    (typed,) = overrides.jobs(args.settings, multirun=False, config_dir=args.config_dir)
    if not args.cfg:
        preload_torch()
    cfg = starting.compose_run(typed, config_dir=args.config_dir)
    if args.cfg:
        return print_config(cfg)
    name = new_run_id()
    path = Path(cfg.output_dir).expanduser() / name
    return launch.launch(launch.Job(RunStart(cfg, path), typed, run_id=name))


def _take_part(arguments: Sequence[str]) -> int:
    """Run a rank other than the main one, which alone reports errors in the command line."""
    with suppress(UserError):
        args = parse_arguments("train", arguments)
        if args.help or args.cfg:
            return 0
    console.log_to_console()
    logging.getLogger("tinygpt").setLevel(logging.ERROR)
    try:
        return launch.take_part()
    except KeyboardInterrupt:  # from torchrun, because the main rank exited before training started
        return 0  # a failure here would be reported as a second one


if __name__ == "__main__":
    main()
