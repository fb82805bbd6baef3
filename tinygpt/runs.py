"""List, find, show and delete runs."""

from collections.abc import Sequence
from pathlib import Path

from tinygpt import console
from tinygpt.cli.arguments import output_folder, parse_settings
from tinygpt.errors import UserError

HELP = """\
python -m tinygpt.runs [RUNS ...] [FIELD=VALUE | FIELD<NUMBER | FIELD>NUMBER ...] [sort=FIELD]

Lists runs, newest first. RUNS are run folders, sweeps, patterns, or latest; default: all runs in
outputs.

  python -m tinygpt.runs                                   # the newest 30
  python -m tinygpt.runs status=failed
  python -m tinygpt.runs model.n_layer=4 'val/bpb<1.2' sort=val/bpb
  python -m tinygpt.runs status=unfinished                 # with the commands to resume them
  python -m tinygpt.runs outputs/RUN                       # everything about one run
  python -m tinygpt.runs status=failed delete=true         # asks first; add yes=true to skip that

FIELD is status, sweep, name, tags, tokens, val/bpb, val/loss, n_params, elapsed_s or any field of
the config; tags=paper is every run with that tag. status=unfinished is every run that can be
resumed: queued, paused, interrupted, dead.

  sort=FIELD        smallest first; sort=-FIELD largest first
  show=30           the most runs to list; show=all lists every run
  delete=true       delete the listed runs
  output_dir=DIR    the folder with your runs; default: outputs
"""
_OPTIONS = ("sort", "show", "delete", "yes", "output_dir")


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point; exits with 0 on success."""
    console.printing_the_result()
    if {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    values, words = parse_settings("runs", arguments, names=_OPTIONS, is_word=lambda text: True)
    options = {name: texts[0] for name, texts in values.items()}
    for name in ("delete", "yes"):
        if options.get(name, "false") not in ("true", "false"):
            raise UserError(f"{name}={options[name]} must be true or false")
    deleting = options.get("delete") == "true"
    if "yes" in options and not deleting:
        raise UserError("yes= answers a question that only delete=true asks")
    if deleting and not words:
        raise UserError("delete=true would delete every run; type which, such as status=failed")
    limit = _count(options.get("show", "30"))
    from tinygpt.records import listing
    from tinygpt.records.find import find_runs
    from tinygpt.records.read import read_runs

    filters = [
        wanted
        for word in words
        if not Path(word).exists() and (wanted := listing.Filter.parse(word))
    ]
    places = [word for word in words if Path(word).exists() or not listing.Filter.parse(word)]
    outputs = output_folder(values.get("output_dir", ()))
    if not places and not outputs.is_dir():
        raise UserError(f"there is no folder {outputs}; train a run, or type output_dir=FOLDER")
    runs = read_runs(find_runs(places or [str(outputs)], output_dir=outputs))
    if len(runs) == 1 and places and not filters and not deleting:
        listing.show_run(runs[0])
        return 0
    chosen = listing.choose(runs, filters, sort=options.get("sort"))
    if deleting:
        listing.delete(chosen, sure=options.get("yes") == "true")
    else:
        listing.show_list(chosen, limit=limit, total=len(runs))
    return 0


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise UserError(f"show={text} must be a whole number, or all")
    return int(text)


if __name__ == "__main__":
    main()
