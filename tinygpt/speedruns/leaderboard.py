"""The leaderboard: a JSON line for each result, and the Markdown tables made of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tinygpt.comparison.statistics import estimate
from tinygpt.errors import UserError
from tinygpt.files import write_atomically
from tinygpt.records.folder import source_state
from tinygpt.speedruns.entries import REFERENCE, Entry
from tinygpt.speedruns.session import Timed
from tinygpt.speedruns.tracks import TRACKS, Track

ROWS, TABLES = "results.jsonl", "LEADERBOARD.md"
Row = dict[str, Any]
_HEAD = """\
# Speedrun: time to a loss

Written by `python -m tinygpt.speedrun`; the rows are in [results.jsonl](results.jsonl), the rules
in [README.md](README.md). A time is that of a whole process, from its start to its end: start-up,
preparation of the data, training, evaluation, checkpoint. Times are the median over seeds, with the
95 % interval of the mean. A ratio is the median time divided by that of the reference, which took
turns with the entry on the same machine: ratios compare between machines, times do not.
"""
# the fields that every row has, with their types
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("track", "entry", "file", "author", "idea", "date", "measured_at"), str),
    **dict.fromkeys(("commit", "hardware"), dict),
    **dict.fromkeys(("times_s", "reference_times_s", "losses", "seeds"), list),
    **dict.fromkeys(("ratio",), (int, float)),
    "peak_mem_bytes": int,
    "sha256": dict,
}
_NUMBERS = ("times_s", "reference_times_s", "losses", "seeds")  # one for each seed


def row(
    entry: Entry,
    track: Track,
    timed: Sequence[Timed],
    reference: Sequence[Timed],
    *,
    board: Path,
) -> Row:
    """The result of an entry, as it is kept; seeds and times are in the same order."""
    times = [one.wall_s for one in timed]
    reference_times = [one.wall_s for one in reference]
    source = source_state(paths=("tinygpt", "conf")) or {}
    return {
        "track": track.name,
        "entry": entry.name,
        "file": _file(entry.path, board),
        "author": entry.author,
        "idea": entry.idea,
        "date": entry.date,
        "settings": entry.settings,
        "sha256": entry.sha256,
        "seeds": [one.seed for one in timed],
        "times_s": [round(value, 3) for value in times],
        "reference_times_s": [round(value, 3) for value in reference_times],
        "ratio": round(median(times) / median(reference_times), 4),
        "losses": [round(one.loss, 5) for one in timed],
        "target": track.target,
        "unit": track.unit,
        "peak_mem_bytes": max(one.peak_mem_bytes for one in timed),
        "hardware": timed[0].hardware,
        "commit": {"id": source.get("commit"), "changed": source.get("dirty", False)},
        "measured_at": min(one.started_at for one in timed),
    }


def _file(path: Path, board: Path) -> str:
    """The entry's file relative to the board, or its name if it is elsewhere."""
    relative = os.path.relpath(path.resolve(), board.resolve())
    return path.name if relative.startswith("..") else Path(relative).as_posix()


def read(board: Path) -> list[Row]:
    """The rows of a board, oldest first; raises UserError for a line that is not one."""
    path = board / ROWS
    if not path.exists():
        return []
    rows = []
    # not splitlines(), for which a text within JSON may hold ends of lines
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if wrong := _wrong(content):
            raise UserError(f"{path}, line {number} {wrong}; restore the file, such as from git")
        rows.append(content)
    return rows


def _wrong(content: Any) -> str | None:
    """What makes a line of the file no row; None for a row."""
    if not isinstance(content, dict):
        return "is not JSON of an object"
    for name, kind in _TYPES.items():
        if not isinstance(content.get(name), kind):
            return f"has no valid {name}"
    for name in _NUMBERS:
        values = content[name]
        if len(values) != len(content["seeds"]) or not values:
            return f"has {name} of {len(values)} and seeds of {len(content['seeds'])}"
        if not all(isinstance(value, (int, float)) for value in values):
            return f"has no valid {name}"
    return None


def add(board: Path, rows: Sequence[Row]) -> None:
    """Add rows and write the tables again.

    A row takes the place of one of the same entry, machine and commit.
    """
    kept = {_key(one): one for one in read(board)}
    for one in rows:
        kept.pop(_key(one), None)
        kept[_key(one)] = one
    ordered = list(kept.values())
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in ordered]
    write_atomically(board / ROWS, "".join(lines))
    write_atomically(board / TABLES, markdown(ordered))


def _key(one: Row) -> str:
    hardware = one["hardware"]
    machine = [hardware.get(name) for name in ("device_name", "threads", "precision")]
    return json.dumps([one["track"], one["entry"], one["sha256"], machine, one["commit"]])


def record(rows: Sequence[Row], track: Track) -> Row | None:
    """The row of a track with the smallest ratio; None without one."""
    ranked = [one for one in rows if one["track"] == track.name and not is_reference(one)]
    return min(ranked, key=lambda one: float(one["ratio"]), default=None)


def is_reference(one: Row) -> bool:
    """Whether a row is of the reference, which others are compared with."""
    return bool(one["entry"] == REFERENCE)


def markdown(rows: Sequence[Row]) -> str:
    """The tables of all tracks, and the history of their records."""
    parts = [_HEAD]
    for track in TRACKS.values():
        own = [one for one in rows if one["track"] == track.name]
        if own:
            parts.append(_section(track, own))
    if not rows:
        parts.append("There is no result yet.\n")
    return "\n".join(parts)


def _section(track: Track, rows: Sequence[Row]) -> str:
    lines = [
        f"## {track.name}",
        "",
        f"{track.about}. Target: at most {track.target:g} {track.unit} over the whole validation "
        "split.",
        "",
        f"| rank | name | idea | time, s | ratio | {track.unit} | hardware | peak, MB | commit "
        "| date | entry |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ranked = sorted((one for one in rows if not is_reference(one)), key=lambda one: one["ratio"])
    references = [one for one in rows if is_reference(one)]
    lines += [_line(str(rank), one) for rank, one in enumerate(ranked, start=1)]
    lines += [_line("", one) for one in references]
    return "\n".join([*lines, "", *_history(track, ranked)])


def _line(rank: str, one: Row) -> str:
    commit = f"{(one['commit'].get('id') or 'none')[:7]}"
    commit += " with changes" if one["commit"].get("changed") else ""
    hardware = one["hardware"]
    machine = f"{hardware.get('device_name')}, {hardware.get('threads')} threads"
    losses = [float(value) for value in one["losses"]]
    cells = (
        *(rank, one["entry"], one["idea"], interval(one["times_s"]), f"{one['ratio']:.3f}"),
        *(f"{sum(losses) / len(losses):.4f}", machine, f"{one['peak_mem_bytes'] / 1e6:,.0f}"),
        *(commit, one["measured_at"][:10], f"[{Path(one['file']).name}]({one['file']})"),
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def summary(one: Row) -> str:
    """A result in a line."""
    loss = sum(map(float, one["losses"])) / len(one["losses"])
    return (
        f"{one['entry']}: {interval(one['times_s'])} s, {one['ratio']:.3f} of the reference's "
        f"time, {loss:.4f} {one['unit']}, {one['peak_mem_bytes'] / 1e6:,.0f} MB"
    )


def interval(times: Sequence[float]) -> str:
    """The median, and the 95 % interval of the mean by Student's t."""
    found = estimate(list(times))
    if found.half_width is None:
        return f"{median(times):.1f}"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return f"{median(times):.1f} ({low:.1f} to {high:.1f})"


def _history(track: Track, ranked: Sequence[Row]) -> list[str]:
    """What each record brought: the rows that were faster than all before them."""
    records: list[Row] = []
    for one in sorted(ranked, key=lambda one: one["measured_at"]):
        if not records or one["ratio"] < records[-1]["ratio"]:
            records.append(one)
    if not records:
        return []
    lines = [
        f"Records of {track.name}, oldest first:",
        "",
        "| date | name | idea | author | ratio | of the record before |",
        "|---|---|---|---|---|---|",
    ]
    before = None
    for one in records:
        cells = (
            *(one["measured_at"][:10], one["entry"], one["idea"], one["author"]),
            *(f"{one['ratio']:.3f}", f"{100 * one['ratio'] / before:.0f} %" if before else ""),
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        before = one["ratio"]
    return [*lines, ""]


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
