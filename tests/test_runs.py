"""Listing, finding and deleting runs."""

from pathlib import Path

import pytest
from filelock import FileLock

from tests.runs_on_disk import make_run
from tinygpt import runs
from tinygpt.records.listing import sparkline


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs, of which one failed and one of a sweep was interrupted."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs"
    named = {"name": "base", "tags": ["paper", "x"], "notes": "why"}
    make_run(folder / "a", bpb=1.1, config={"model.n_layer": 4, **named})
    make_run(folder / "b", bpb=1.3, config={"name": None, "tags": [], "notes": None})
    make_run(folder / "c", bpb=None, status="failed", error="out of memory")
    make_run(folder / "s_sweep" / "0", bpb=None, status="interrupted")
    return folder


def listed(capsys: pytest.CaptureFixture[str], *typed: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exit_info:
        runs.main(list(typed))
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    return captured.out + captured.err


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.strip().startswith("outputs/")]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["sort=val/bpb", "status=finished"], ["outputs/a", "outputs/b"]),
        (["sort=-val/bpb", "status=finished"], ["outputs/b", "outputs/a"]),
        (["val/bpb<1.2"], ["outputs/a"]),
        (["val/bpb>=1.1", "model.n_layer=2"], ["outputs/b"]),
        (["status=failed"], ["outputs/c"]),
        (["status=unfinished"], ["outputs/s_sweep/0"]),
        (["sweep=s_sweep"], ["outputs/s_sweep/0"]),
        (["model=gpt", "seed=0", "model.n_layer>3"], ["outputs/a"]),
        (["name=base"], ["outputs/a"]),
        (["tags=paper"], ["outputs/a"]),
        (["tags=[paper,x]"], ["outputs/a"]),
        (["tags=pap"], []),
        (["name=null"], ["outputs/b"]),
    ],
)
def test_runs_are_found_by_what_they_are(
    outputs: Path, capsys: pytest.CaptureFixture[str], typed: list[str], expected: list[str]
) -> None:
    assert names(listed(capsys, *typed)) == expected


def test_runs_that_can_be_resumed_are_listed_with_the_command(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = listed(capsys)
    assert "out of memory" in text
    assert "4 of 4 runs" in text
    assert "python -m tinygpt.train -m sweep=outputs/s_sweep" in text
    assert "3 more: show=all" in listed(capsys, "show=1")


def test_one_run_is_shown_whole(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = listed(capsys, "outputs/a")
    assert "model.n_layer=4" in text
    assert "  val/bpb         1.1\n" in text
    assert "python -m tinygpt.sample run=outputs/a" in text
    assert "3.000 █▃▂▁▁ 0.600" in text
    named = "  name            base\n  notes           why\n  tags            paper, x\n"
    assert f"{named}  model           gpt 4\n" in text


def test_names_and_errors_cannot_command_the_terminal(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07"
    make_run(outputs / "e", status="failed", error=evil, bpb=None, config={"name": evil})
    for typed in (["status=failed"], ["outputs/e"]):
        text = listed(capsys, *typed)
        assert "\x1b" not in text
        assert "\\x1b]0;title\\x07" in text


def test_a_link_to_a_run_is_not_deleted_as_one(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "link").symlink_to(outputs / "a")
    text = listed(capsys, "outputs/link", "delete=true", "yes=true", code=2)
    assert "outputs/link is a symbolic link; remove it by hand" in text
    assert (outputs / "a").exists()


def test_deleting_needs_a_yes_and_spares_what_runs(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "type yes=true" in listed(capsys, "status=failed", "delete=true", code=2)
    assert (outputs / "c").exists()
    assert "would delete every run" in listed(capsys, "delete=true", "yes=true", code=2)
    make_run(outputs / "busy", status="running")
    with FileLock(outputs / "busy" / ".lock"):
        assert "is running; stop it first" in listed(
            capsys, "outputs/busy", "delete=true", "yes=true", code=2
        )
    assert "deleted 1 run," in listed(capsys, "status=failed", "delete=true", "yes=true")
    assert not (outputs / "c").exists()
    assert (outputs / "a").exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["stat=failed"], "stat is no field of these runs; did you mean status?"),
        (["sort=val/bpd"], "did you mean val/bpb?"),
        (["show=some"], "show=some must be a whole number, or all"),
        (["optimizer.name<3"], "is adamw, which is no number; type optimizer.name=adamw"),
        (["yes=true"], "only delete=true asks"),
        (["sort=val/bpb", "sort=seed"], "sort is typed twice: val/bpb and seed"),
        (["output_dir="], "output_dir= has no value; type output_dir=VALUE, or leave it out"),
        (["output_dir=nosuch"], "output_dir=nosuch is not a folder"),
        (["--list"], "--list is not a flag"),
        (["nowhere"], "nowhere holds no run"),
    ],
)
def test_a_mistyped_question_gets_an_error_with_what_to_type(
    outputs: Path, capsys: pytest.CaptureFixture[str], typed: list[str], words: str
) -> None:
    assert words in listed(capsys, *typed, code=2)


def test_a_sparkline_has_a_bar_for_each_part_and_gaps_for_what_is_not_finite() -> None:
    assert sparkline([0, 1]) == "▁█"
    assert sparkline([1.0, float("nan"), 2.0]) == "▁ █"
    assert len(sparkline(list(range(1000)))) == 40
    assert sparkline([]) == ""
