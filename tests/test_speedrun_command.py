"""The command `python -m tinygpt.speedrun`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.speedruns.tiny import ENTRY, tiny_track
from tinygpt import speedrun
from tinygpt.config.choices import CONF
from tinygpt.speedruns.tracks import TRACKS


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board with a track of 20 stories, its reference and a quicker entry."""
    monkeypatch.setitem(TRACKS, "tiny", tiny_track())
    folder = tmp_path / "board" / "entries" / "tiny"
    folder.mkdir(parents=True)
    slower = ENTRY.replace("max_steps=4", "max_steps=40")
    (folder / "reference.yaml").write_text(slower.replace("name: fast", "name: reference"))
    (folder / "fast.yaml").write_text(ENTRY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "board"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        speedrun.main([*arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seeds=0"], "track= is missing; type track=shakespeare"),
        (["track=shakespear"], "track=shakespear is not a choice; did you mean track=shakespeare?"),
        (["track=tiny", "seeds=0,x"], "seeds=0,x must be whole numbers"),
        (["track=tiny", "seeds=1,1"], "seeds=1,1 has a seed twice"),
        (["track=tiny", "board=nowhere"], "board=nowhere has no entries/tiny/reference.yaml"),
        (["track=tiny", "board=board", "entry=fats"], "entry=fats is neither a file nor an entry"),
        (["track=tiny", "board=board", "text=a.txt"], "text="),
        (["track=tiny", "reference=false"], "reference is not a field"),
    ],
)
@pytest.mark.usefixtures("board")
def test_a_mistake_is_named_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_help_lists_the_tracks(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    printed = capsys.readouterr().out
    for track in TRACKS.values():
        assert track.about in printed
        assert f"at most {track.target:g} {track.unit}" in printed


@pytest.mark.slow  # a dozen processes
def test_a_speedrun_times_three_seeds_in_turns_and_writes_the_leaderboard(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["track=tiny", f"board={board}", "entry=fast"]
    assert call(*command, "seeds=0") == 0
    said = capsys.readouterr().out
    assert "the leaderboard takes results of 3 seeds or more" in said
    assert not (board / "results.jsonl").exists()
    (left,) = (tmp_path / "outputs/speedruns/tiny").glob("reference-fast-*")
    (left / "fast" / "seed-1" / "runs").mkdir(parents=True)  # as an interruption leaves it
    assert call(*command) == 0
    said = capsys.readouterr().out
    assert said.count("(measured before)") == 2
    assert said.index("reference seed=2: ") < said.index("fast seed=2: ")
    rows = [json.loads(line) for line in (board / "results.jsonl").read_text().splitlines()]
    assert [row["entry"] for row in rows] == ["reference", "fast"]
    fast = rows[1]
    assert fast["seeds"] == [0, 1, 2]
    assert fast["ratio"] == pytest.approx(
        sorted(fast["times_s"])[1] / sorted(fast["reference_times_s"])[1], abs=1e-3
    )
    assert fast["peak_mem_bytes"] > 10**8
    assert "## tiny" in (board / "LEADERBOARD.md").read_text()
    # the loss of a run that was forged afterwards is not believed
    (summary,) = left.glob("fast/seed-0/runs/*/summary.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"val/bpb": 1.0}))
    assert call(*command) == 2
    assert "fast seed=0 breaks the rule 'finished'" in capsys.readouterr().err


@pytest.mark.slow  # processes
def test_an_entry_that_misses_the_target_is_not_written(
    board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRACKS, "tiny", replace(tiny_track(), target=0.1))
    assert call("track=tiny", f"board={board}", "entry=fast", "seeds=0,1,2") == 2
    said = capsys.readouterr()
    assert "fast seed=0 breaks the rule 'target': " in said.err
    assert "reference seed=1" not in said.out
    assert not (board / "results.jsonl").exists()


@pytest.mark.slow  # processes
def test_an_entry_from_elsewhere_is_timed_and_not_written(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (board / "entries" / "tiny" / "fast.yaml").rename(tmp_path / "fast.yaml")
    assert call("track=tiny", f"board={board}", "entry=fast.yaml") == 0
    said = capsys.readouterr().out
    assert f"results of {tmp_path / 'fast.yaml'} are printed only" in said
    assert not (board / "results.jsonl").exists()
    (tmp_path / "fast.yaml").rename(board / "entries" / "tiny" / "fast.yaml")
    assert call("track=tiny", f"board={board}", "entry=fast") == 0
    assert capsys.readouterr().out.count("(measured before)") == 6
    assert len((board / "results.jsonl").read_text().splitlines()) == 2


def test_a_wrong_text_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(CONF.parent)
    wrong = tmp_path / "input.txt"
    for said in ("is not a file", "is another text: its sha256 begins with e3b0c44298fc"):
        assert call("track=shakespeare", f"text={wrong}", f"output_dir={tmp_path}") == 2
        assert said in capsys.readouterr().err
        wrong.touch()


def test_a_component_imports_no_file_that_its_entry_does_not_list(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = board / "entries" / "tiny"
    (folder / "listed.py").write_text("import beside\n")
    (folder / "beside.py").touch()
    path = folder / "fast.yaml"
    path.write_text(ENTRY + "components: [listed.py]\n")
    assert call("track=tiny", f"board={board}", "entry=fast") == 2
    assert "No module named 'beside'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("optimizer.lrr=1", "optimizer.lrr is not a field"),
        ("experiment=stories", "write the other settings of the experiment into the entry"),
    ],
)
def test_settings_that_are_wrong_are_refused_before_anything_runs(
    board: Path, capsys: pytest.CaptureFixture[str], setting: str, error: str
) -> None:
    path = board / "entries" / "tiny" / "fast.yaml"
    path.write_text(f"{ENTRY}  - {setting}\n")
    assert call("track=tiny", f"board={board}", "entry=fast") == 2
    said = capsys.readouterr()
    assert f"error: {path}: " in said.err
    assert error in said.err
    assert "training" not in said.out
