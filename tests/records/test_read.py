"""Runs as their folders tell of them."""

import json
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.runs_on_disk import make_run
from tinygpt.errors import UserError
from tinygpt.records.read import find_runs, flatten, read_run, read_runs


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
def test_a_damaged_folder_is_told_and_hides_no_other(tmp_path: Path, content: str) -> None:
    bad, good = make_run(tmp_path / "bad"), make_run(tmp_path / "good")
    (bad / "run.json").write_text(content)
    first, second = read_runs([bad, good])
    assert (first.status, second.status) == ("damaged", "finished")
    assert first.error is not None
    assert "run.json cannot be read" in first.error
    assert first.rows  # what can be read is read


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
