"""Speedrun: time whole runs to a fixed loss, check the rules, and write the leaderboard."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt import console
from tinygpt.cli.arguments import parse_settings
from tinygpt.errors import UserError, check_choice

if TYPE_CHECKING:
    from tinygpt.speedruns.tracks import Track

_HELP = """\
python -m tinygpt.speedrun track=NAME [entry=NAME_OR_FILE] [entry=...] [seeds=0,1,2]

Times whole runs that reach a fixed loss on fixed text, from the start of the process to its end.
Entries and the reference take turns on this machine. The rules are checked, and results with three
seeds or more go to experiments/speedrun/LEADERBOARD.md. After an interruption the same command goes
on with the seeds that are missing.

  python -m tinygpt.speedrun track=storyworld
  python -m tinygpt.speedrun track=shakespeare text=input.txt entry=my_entry.yaml

  track=NAME          the text and the loss to reach
  entry=NAME          an entry of the track or a YAML file; type entry= several times for more;
                      default: the record holder, or the reference before there is a record
  seeds=0,1,2         one run of each entry for each seed
  text=FILE           a local copy of the track's text; default: downloaded, or generated;
                      track=stories needs it, and says what to type
  output_dir=outputs  runs go to OUTPUT_DIR/speedruns/TRACK/
  board=FOLDER        the folder with entries/ and the leaderboard; default: experiments/speedrun

An entry is a YAML file with name, author, idea, date, settings (a list of settings as
tinygpt.train takes them) and, if need be, components (a list of .py files beside it).

Tracks
"""
_OPTIONS = ("track", "entry", "seeds", "text", "output_dir", "board")


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point."""
    from tinygpt.speedruns.tracks import TRACKS

    if not arguments or {"-h", "--help"}.intersection(arguments):
        console.printing_the_result()
        print(_HELP + "\n".join(_track_line(track) for track in TRACKS.values()))
        return 0
    console.log_to_console()
    typed, _ = parse_settings("speedrun", arguments, names=_OPTIONS, repeatable=["entry"])
    if "track" not in typed:
        raise UserError(f"track= is missing; type track={next(iter(TRACKS))}")
    check_choice("track", typed["track"][0], TRACKS)
    track = TRACKS[typed["track"][0]]
    seeds = _seeds(typed.get("seeds", ["0,1,2"])[0])
    board = Path(typed.get("board", ["experiments/speedrun"])[0]).expanduser()
    if not (board / "entries" / track.name / "reference.yaml").is_file():
        raise UserError(
            f"board={board} has no entries/{track.name}/reference.yaml; type the command in a "
            "checkout of tinygpt, or board=FOLDER"
        )
    text = Path(typed["text"][0]).expanduser().absolute() if "text" in typed else None
    track.check_text(text)
    from tinygpt.speedruns import entries

    # before PyTorch is imported, which takes seconds
    chosen = entries.read_all([entries.REFERENCE, *typed.get("entry", [])], track, board)
    from tinygpt.speedruns import leaderboard
    from tinygpt.speedruns.rules import SEEDS
    from tinygpt.speedruns.session import Session

    best = leaderboard.record(leaderboard.read(board), track)
    if "entry" not in typed and best:
        chosen = entries.read_all([entries.REFERENCE, best["entry"]], track, board)
    home = (board / "entries" / track.name).resolve()
    elsewhere = [str(entry.path) for entry in chosen if entry.path.parent != home]
    if elsewhere:
        console.say(
            f"the leaderboard takes entries of {home}; results of {', '.join(elsewhere)} are "
            "printed only"
        )
    session = Session(
        track,
        chosen,
        text=text,
        output_dir=Path(typed.get("output_dir", ["outputs"])[0]).expanduser(),
    )
    session.check()
    console.say(f"runs go to {session.folder}")
    try:
        found = session.times(seeds)
    except KeyboardInterrupt:
        print("finished seeds are kept; to go on type the command again", file=sys.stderr)
        raise
    reference = found[entries.REFERENCE]
    rows = [
        leaderboard.row(entry, track, found[entry.name], reference, board=board) for entry in chosen
    ]
    for one in rows:
        print(leaderboard.summary(one))
    if len(seeds) < SEEDS:
        console.say(
            f"the leaderboard takes results of {SEEDS} seeds or more; type more, such as "
            "seeds=0,1,2: those that are done are kept"
        )
        return 0
    if elsewhere:
        console.say(
            f"to enter the leaderboard, move {', '.join(elsewhere)} to {home} with all components, "
            "and type the same command with the new place: seeds that are done are kept"
        )
        return 0
    leaderboard.add(board, rows)
    console.say(f"written to {board / leaderboard.TABLES}")
    return 0


def _seeds(text: str) -> list[int]:
    """The numbers in `seeds=0,1,2`; raises UserError."""
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in parts):
        raise UserError(f"seeds={text} must be whole numbers of 0 or more; type seeds=0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={text} has a seed twice; type seeds=0,1,2")
    return seeds


def _track_line(track: "Track") -> str:
    return f"  {track.name:<12} {track.about};\n{'':14} at most {track.target:g} {track.unit}"


if __name__ == "__main__":
    main()
