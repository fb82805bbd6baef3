"""Reading runs from their folders."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.runs_on_disk import make_run
from tinygpt.comparison.statistics import compare
from tinygpt.config.nested import flatten
from tinygpt.errors import UserError
from tinygpt.records.find import find_runs
from tinygpt.records.read import file_checksums, read_run, read_runs


def test_a_record_has_what_the_folder_says(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "s_sweep" / "3", bpb=1.25, seed=7))
    assert (run.id, run.group, run.label, run.status) == ("s_sweep-3", "s_sweep", "3", "finished")
    assert run.flat["optimizer.lr"] == 0.001
    assert (run.metric("val/bpb"), run.metric("n_params")) == (1.25, 500)
    assert run.metric("flops") == 4000 * 1000
    assert run.metric("nothing") is None
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4, 5]


def test_a_run_of_an_earlier_version_has_its_config_in_yaml_only(tmp_path: Path) -> None:
    path = make_run(tmp_path / "old")
    record = json.loads((path / "run.json").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(record.pop("config")))
    (path / "run.json").write_text(json.dumps(record))
    assert read_run(path).flat["model.n_layer"] == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}'])
def test_a_damaged_folder_is_reported_and_hides_no_other(tmp_path: Path, content: str) -> None:
    bad, good = make_run(tmp_path / "bad"), make_run(tmp_path / "good")
    (bad / "run.json").write_text(content)
    first, second = read_runs([bad, good])
    assert (first.status, second.status) == ("damaged", "finished")
    assert first.error is not None
    assert "run.json cannot be read" in first.error
    assert first.rows  # what can be read is read


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("summary.json", "null", "summary.json cannot be read: it holds null, not an object"),
        ("summary.json", "{", "summary.json cannot be read: JSONDecodeError"),
        ("summary.json", '{"val/bpb": NaN}', "summary.json is damaged: val/bpb is NaN"),
        ("summary.json", '{"val/bpb": "1.5"}', 'summary.json is damaged: val/bpb is "1.5"'),
        ("summary.json", '{"tokens": [1]}', "summary.json is damaged: tokens is [1]"),
        ("run.json", '{"status": "finished", "derived": []}', "run.json is damaged: derived is []"),
        ("run.json", '{"status": 1}', "run.json is damaged: status is 1"),
        ("run.json", '{"status": "finished", "config": 3}', "run.json is damaged: config is 3"),
        (
            "run.json",
            '{"status": "finished", "derived": {"validation": [1]}}',
            "run.json is damaged: derived.validation is [1]",
        ),
        (
            "run.json",
            '{"status": "finished", "derived": {"n_params": "many"}}',
            'run.json is damaged: derived.n_params is "many"',
        ),
        (
            "run.json",
            '{"status": "finished", "derived": {"validation": {"utf8_bytes": 1}}}',
            "run.json is damaged: derived.validation has no documents, text_sha256",
        ),
        ("run.json", '{"status": "x", "started_at": 5}', "run.json is damaged: started_at is 5"),
    ],
)
def test_values_of_the_wrong_type_are_damage_and_no_obstacle_for_other_runs(
    tmp_path: Path, file: str, content: str, words: str
) -> None:
    bad, good = make_run(tmp_path / "bad"), make_run(tmp_path / "good")
    (bad / file).write_text(content)
    first, second = read_runs([bad, good])
    assert (first.status, first.error) == ("damaged", words)
    assert second.status == "finished"
    comparison = compare([first, second])
    assert [run.path for run in comparison.unranked] == [bad]


@pytest.mark.parametrize("file", ["run.json", "summary.json"])
def test_a_named_pipe_is_damage_and_is_not_waited_for(tmp_path: Path, file: str) -> None:
    bad, good = make_run(tmp_path / "bad"), make_run(tmp_path / "good")
    (bad / file).unlink()
    os.mkfifo(bad / file)
    first, second = read_runs([bad, good])
    assert (first.status, second.status) == ("damaged", "finished")
    assert first.error == f"{file} cannot be read: it is a named pipe"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "metrics.jsonl is missing"),
        (lambda path: path.write_text(""), "metrics.jsonl is empty"),
        (
            lambda path: path.write_text(path.read_text()[:-20]),
            "metrics.jsonl was changed after the run ended",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("3.0", "2.0", 1)),
            "metrics.jsonl was changed after the run ended",
        ),
    ],
)
def test_rows_that_are_not_as_the_run_left_them_are_damage(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    path = make_run(tmp_path / "run")
    make_run(path, files=file_checksums(path), exist_ok=True)
    assert read_run(path).status == "finished"
    damage(path / "metrics.jsonl")
    run = read_run(path)
    assert (run.status, run.error) == ("damaged", words)
    assert read_run(make_run(tmp_path / "old")).status == "finished"  # without checksums


def test_a_finished_run_without_a_summary_is_listed_as_dead_with_how_to_complete_it(
    tmp_path: Path,
) -> None:
    run = read_run(make_run(tmp_path / "run", bpb=None))
    assert run.status == "dead"
    assert run.error == f"it has no summary; complete it with resume={run.path}"


def test_a_running_run_without_a_process_is_dead(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running", bpb=None)
    assert read_run(path).status == "dead"
    with FileLock(path / ".lock"):
        assert read_run(path).status == "running"


def test_runs_are_found_by_folder_sweep_pattern_and_name(tmp_path: Path) -> None:
    alone = make_run(tmp_path / "2026-01-01_a")
    sweep = tmp_path / "2026-01-02_sweep"
    inside = [make_run(sweep / str(number)) for number in (0, 1, 10, 2)]
    (sweep / "sweep.yaml").write_text("")

    def found(*patterns: str) -> list[Path]:
        return find_runs(patterns, output_dir=tmp_path)

    in_order = [inside[0], inside[1], inside[3], inside[2]]
    assert found(str(sweep)) == in_order
    assert found(sweep.name) == in_order
    assert found("latest") == in_order
    assert found(str(tmp_path)) == [alone, *in_order]
    assert found(f"{tmp_path}/*_a") == [alone]
    assert found(str(alone), str(alone)) == [alone]
    with pytest.raises(UserError, match="holds no run; did you mean"):
        found(str(tmp_path / "2026-01-01_b"))


def test_nested_fields_get_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}
