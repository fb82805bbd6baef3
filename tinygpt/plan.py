"""Say what a run, or a sweep, will take before it is begun."""

from collections.abc import Sequence
from types import ModuleType

from tinygpt import console
from tinygpt.cli.arguments import parse_arguments
from tinygpt.config import overrides
from tinygpt.errors import UserError
from tinygpt.interchange import starting
from tinygpt.sweeps import scheduler

HELP = """\
python -m tinygpt.plan [-m] [GROUP=CHOICE ...] [FIELD=VALUE ...]

Says what `python -m tinygpt.train` with the same words will take: parameters, work, memory, disk,
the largest micro batch that fits, and time, from a few real steps on this machine.

  python -m tinygpt.plan model=small tokenizer=bpe trainer.max_tokens=300M
  python -m tinygpt.plan -m model=tiny,small optimizer.lr=1e-2,2e-2 seed=0,1,2
"""


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point."""
    console.printing_the_result()
    args = parse_arguments("plan", arguments)
    if args.help:
        print(HELP, end="")
        return 0
    of_runs = [text for text in args.settings if not scheduler.is_about_sweeps(text)]
    own = [text for text in args.settings if scheduler.is_about_sweeps(text)]
    if own and not args.multirun:
        raise UserError(f"{own[0]} is about several runs; type -m before it")
    if not args.multirun:
        (job,) = overrides.jobs(of_runs, multirun=False, config_dir=args.config_dir)
        cfg = starting.compose_run(job, config_dir=args.config_dir)
        _view().show(_view().plan(cfg))
    else:
        _view().plan_sweep(own, of_runs, args.config_dir)
    return 0


def _view() -> ModuleType:
    """Imports torch, which --help and mistakes do not wait for."""
    from tinygpt.planning import view

    return view


if __name__ == "__main__":
    main()
