"""Repeated results of the same run are counted once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.runs_on_disk import make_run
from tinygpt.comparison import report, tables
from tinygpt.comparison.statistics import Comparison, compare
from tinygpt.records.find import find_runs
from tinygpt.records.read import read_runs


def sweep(folder: Path, *, results: dict[float, list[float]], **run: Any) -> Path:
    """A sweep with a run for each learning rate and seed."""
    number = 0
    for lr, values in results.items():
        for seed, bpb in enumerate(values):
            path = folder / str(number)
            make_run(path, bpb=bpb, seed=seed, config={"optimizer.lr": lr}, **run)
            number += 1
    (folder / "sweep.yaml").write_text("")
    return folder


def compared(folder: Path, *typed: str) -> Comparison:
    return compare(read_runs(find_runs(typed or [str(folder)], output_dir=folder)))


TWO_SEEDS = {0.1: [1.50, 1.52], 0.2: [1.53, 1.54]}


def by_sweeping_again(outputs: Path) -> None:
    sweep(outputs / "b_sweep", results=TWO_SEEDS)


def by_copying(outputs: Path) -> None:
    shutil.copytree(outputs / "a_sweep", outputs / "z_backup")


def by_a_link(outputs: Path) -> None:
    (outputs / "z_link").symlink_to(outputs / "a_sweep")


def by_writing_a_number_in_two_ways(outputs: Path) -> None:
    sweep(outputs / "b_sweep", results={1e-1: TWO_SEEDS[0.1], 2e-1: TWO_SEEDS[0.2]})


def by_sweeps_that_overlap(outputs: Path) -> None:
    sweep(outputs / "b_sweep", results={0.2: TWO_SEEDS[0.2], 0.3: [1.9, 1.91]})


@pytest.mark.parametrize(
    ("again", "left_out"),
    [
        (by_sweeping_again, 4),
        (by_copying, 4),
        (by_a_link, 0),  # the very same folders, as if a folder was typed twice
        (by_writing_a_number_in_two_ways, 4),
        (by_sweeps_that_overlap, 2),
    ],
)
def test_a_seed_counts_once_and_what_is_left_out_is_said(
    tmp_path: Path, again: Any, left_out: int
) -> None:
    sweep(tmp_path / "a_sweep", results=TWO_SEEDS)
    (once,) = compared(tmp_path).tables
    again(tmp_path)
    found = compared(tmp_path)
    (table,) = found.tables
    for before, now in zip(once.configurations, table.configurations, strict=False):
        assert now.metrics["val/bpb"] == before.metrics["val/bpb"]
        assert len(now.by_seed) == 2
    assert table.configurations[1].words == "inside the noise"
    assert len(found.left_out) == left_out
    assert (f"{left_out} more are left out" in tables.introduction(found)) == (left_out > 0)
    content = json.loads(tables.as_json(found))
    assert len(content["left_out"]) == left_out
    shown = tables.markdown(found)
    assert all(left.reason in shown for left in found.left_out)
    # every form has the runs that count, and no others
    assert len(tables.as_csv(found).splitlines()) == len(found.runs) + 1
    assert len(report.content(found, x="tokens")["runs"]) == len(found.runs)


def test_a_copy_is_distinguished_from_a_repeat(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    shutil.copytree(run, tmp_path / "copy")
    make_run(tmp_path / "repeat")
    found = compared(tmp_path)
    assert [left.reason for left in found.left_out] == [
        f"{tmp_path}/copy is a copy of {run}",
        f"{tmp_path}/repeat repeats {run}",
    ]
    assert tables.introduction(found).startswith("1 run, 1 seed;")


def test_a_baseline_that_is_left_out_is_measured_by_its_twin(tmp_path: Path) -> None:
    runs = read_runs(
        [
            make_run(tmp_path / "a", bpb=1.5),
            make_run(tmp_path / "b", bpb=1.9, config={"optimizer.lr": 0.3}),
            make_run(tmp_path / "repeat", bpb=1.9, config={"optimizer.lr": 0.3}),
        ]
    )
    (table,) = compare(runs, baseline=runs[2]).tables
    assert table.baseline is not None
    assert table.baseline.runs == [runs[1]]


def test_results_of_one_seed_that_differ_count_as_their_mean_and_are_named(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "a", bpb=1.5, seed=0)
    other = make_run(tmp_path / "b", bpb=1.7, seed=0)
    make_run(tmp_path / "c", bpb=1.6, seed=1)
    for path, name in ((tmp_path / "a", "Xeon"), (other, "EPYC")):
        record = json.loads((path / "run.json").read_text())
        record["derived"]["hardware"] = {"device_name": name}
        (path / "run.json").write_text(json.dumps(record))
    found = compared(tmp_path)
    (table,) = found.tables
    (group,) = table.configurations
    assert group.metrics["val/bpb"].values == pytest.approx((1.6, 1.6))
    assert cell(found, "seeds") == "2"
    (note,) = [note for note in table.notes if "count as one value" in note]
    assert f"2 runs of all runs with seed=0 count as one value, their mean: {tmp_path}/a" in note
    assert "val/bpb is from 1.5 to 1.7 (device_name: Xeon, EPYC)" in note
    assert not found.left_out


def cell(found: Comparison, heading: str) -> str:
    table = found.tables[0]
    place = tables.headings(found, table).index(heading)
    return tables.cells(table.configurations[0], found, table)[place]


def test_threads_that_a_launcher_chose_make_no_other_configuration(tmp_path: Path) -> None:
    for name, threads, seed in (("a", 1, 0), ("b", 2, 1)):
        config = {"device.threads": threads}
        make_run(tmp_path / name, seed=seed, config=config, threads_by_launcher=True)
    assert compared(tmp_path).keys == []
    make_run(tmp_path / "typed", config={"device.threads": 4})
    assert compared(tmp_path).keys == ["device.threads"]


def test_names_are_shown_and_make_no_other_configuration(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, config={"name": "base", "tags": ["x"]})
    make_run(tmp_path / "b", seed=1, config={"name": "base", "notes": "why"})
    make_run(tmp_path / "c", bpb=1.9, config={"optimizer.lr": 0.5})
    found = compared(tmp_path)
    assert found.keys == ["optimizer.lr"]
    assert cell(found, "name") == "base"
    assert found.tables[0].configurations[0].label == "base: optimizer.lr=0.001"
    assert "a,finished,base,x,0.001" in tables.as_csv(found)


def test_a_result_that_is_not_finite_is_not_ranked(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", bpb=float("nan"))
    found = compared(tmp_path)
    (line,) = tables.unranked(found.unranked, found.objective)
    assert line == "run b damaged: summary.json is damaged: val/loss is NaN"


def test_a_terminal_shows_escapes_and_does_not_obey_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07\x9b31m"
    make_run(tmp_path / "a", config={"dataset.path": evil, "name": "one"})
    make_run(tmp_path / "b", config={"dataset.path": "b"}, bpb=1.6)
    make_run(tmp_path / "c", status="failed", error=evil, bpb=None)
    found = compared(tmp_path)
    tables.show(found)
    for text in (capsys.readouterr().out, tables.markdown(found)):
        assert not set(text) & {"\x1b", "\x07", "\x9b"}
        assert "\\x1b]0;title\\x07\\x9b31m" in text


def test_how_often_a_run_logs_and_saves_makes_no_other_configuration(tmp_path: Path) -> None:
    for seed, field in enumerate(("save_every", "log_every", "keep_checkpoints")):
        make_run(tmp_path / str(seed), seed=seed, config={f"trainer.{field}": 3})
    (table,) = compared(tmp_path).tables
    (configuration,) = table.configurations
    assert len(configuration.runs) == 3
