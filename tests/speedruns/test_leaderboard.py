"""The leaderboard: rows in a file, and the tables made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinygpt.errors import UserError
from tinygpt.speedruns import entries, leaderboard
from tinygpt.speedruns.session import Timed
from tinygpt.speedruns.tracks import TRACKS

TRACK = TRACKS["storyworld"]


def result(board: Path, name: str, times: list[float], at: str = "2026-11-29") -> dict[str, Any]:
    folder = board / "entries" / "storyworld"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nauthor: A. Student\nidea: a|b\ndate: 2026-11-29\n")

    def timed(values: list[float]) -> list[Timed]:
        hardware = {"device_name": "Some CPU", "threads": 2, "precision": "fp32", "device": "cpu"}
        return [
            Timed(seed, value, 10**9, f"{at}T00:00:0{seed}+00:00", 0.24, hardware, "outputs/RUN")
            for seed, value in enumerate(values)
        ]

    entry = entries.read(path, TRACK)
    reference = times if entry.is_reference else [100.0, 90.0, 110.0]
    return leaderboard.row(entry, TRACK, timed(times), timed(reference), board=board)


def lines(board: Path) -> list[str]:
    return (board / "LEADERBOARD.md").read_text().splitlines()


def test_rows_are_ranked_by_their_ratio_to_the_reference(tmp_path: Path) -> None:
    slow = result(tmp_path, "slow", [60.0, 50.0, 55.0])
    quick = result(tmp_path, "quick", [20.0, 30.0, 25.0])
    assert (slow["ratio"], quick["ratio"]) == (0.55, 0.25)
    leaderboard.add(tmp_path, [slow, result(tmp_path, "reference", [100.0, 90.0, 110.0])])
    leaderboard.add(tmp_path, [quick])
    rows = [line for line in lines(tmp_path) if "entries/" in line]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| 1", "quick"],
        ["| 2", "slow"],
        ["| ", "reference"],
    ]
    # by hand: mean 25, standard deviation 5, t(0.975, 2) = 4.3027: 25 -+ 4.3027 * 5 / sqrt(3)
    assert "| 25.0 (12.6 to 37.4) | 0.250 | 0.2400 | Some CPU, 2 threads | 1,000 |" in rows[0]
    assert r"| a\|b |" in rows[0]
    assert rows[0].endswith("| [quick.yaml](entries/storyworld/quick.yaml) |")
    best = leaderboard.record(leaderboard.read(tmp_path), TRACK)
    assert best
    assert best["entry"] == "quick"


def test_the_history_says_what_each_record_brought(tmp_path: Path) -> None:
    first = result(tmp_path, "first", [50.0] * 3, at="2026-11-01")
    worse = result(tmp_path, "worse", [60.0] * 3, at="2026-11-02")
    second = result(tmp_path, "second", [40.0] * 3, at="2026-11-03")
    leaderboard.add(tmp_path, [second, worse, first])
    text = lines(tmp_path)
    start = text.index("Records of storyworld, oldest first:")
    assert [line for line in text[start:] if line.startswith("| 2026")] == [
        r"| 2026-11-01 | first | a\|b | A. Student | 0.500 |  |",
        r"| 2026-11-03 | second | a\|b | A. Student | 0.400 | 80 % |",
    ]


def test_a_result_of_the_same_entry_machine_and_commit_takes_the_place_of_the_old_one(
    tmp_path: Path,
) -> None:
    leaderboard.add(tmp_path, [result(tmp_path, "mine", [50.0] * 3)])
    again = result(tmp_path, "mine", [40.0] * 3)
    leaderboard.add(tmp_path, [again])
    elsewhere = again | {"hardware": again["hardware"] | {"device_name": "Other CPU"}}
    leaderboard.add(tmp_path, [elsewhere])
    assert [row["ratio"] for row in leaderboard.read(tmp_path)] == [0.4, 0.4]


def test_characters_that_may_end_a_line_do_not_cut_a_row(tmp_path: Path) -> None:
    row = result(tmp_path, "mine", [50.0] * 3) | {"idea": "a\u2028b\x85c"}
    leaderboard.add(tmp_path, [row])
    assert leaderboard.read(tmp_path) == [row]


@pytest.mark.parametrize(
    "change", ["{", "[]", "\xff", "", {"ratio": "x"}, {"times_s": []}, {"losses": ["x"] * 3}]
)
def test_a_damaged_line_is_named_and_nothing_is_written_over_it(
    tmp_path: Path, change: str | dict[str, Any]
) -> None:
    good = result(tmp_path, "mine", [50.0] * 3)
    line = change if isinstance(change, str) else json.dumps(good | change)
    path = tmp_path / "results.jsonl"
    path.write_bytes(f"{json.dumps(good)}\n{line}\n".encode("latin-1"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"results\.jsonl, line 2 .*restore the file"):
        leaderboard.add(tmp_path, [good])
    assert path.read_bytes() == before
