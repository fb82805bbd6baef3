"""Statistics and rankings over a set of runs."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.runs_on_disk import TEXT, evaluated, make_run
from tinygpt.comparison import tables
from tinygpt.comparison.statistics import compare, estimate, holm, importance, welch
from tinygpt.errors import UserError
from tinygpt.records.read import RunRecord, read_runs


def runs_of(folder: Path, values: dict[float, list[float]]) -> list[RunRecord]:
    """For each learning rate a run for each of these results."""
    paths = [
        make_run(folder / f"{lr}-{seed}", bpb=bpb, seed=seed, config={"optimizer.lr": lr})
        for lr, results in values.items()
        for seed, bpb in enumerate(results)
    ]
    return read_runs(paths)


def test_an_interval_is_students_by_hand() -> None:
    # mean 2, standard deviation 1, t(0.975, 2) = 4.3027: 4.3027 / sqrt(3) = 2.4841
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.half_width) == (2.0, pytest.approx(2.4841, abs=1e-4))
    assert estimate([1.0]).half_width is None


def test_p_values_are_welchs_and_holms() -> None:
    from scipy import stats  # takes long

    a, b = [1.0, 1.1, 1.3], [1.2, 1.5, 1.4, 1.9]
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch([1.0], b) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_configurations_are_ranked_and_noise_is_called_noise(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path,
        {0.1: [1.50, 1.52, 1.51], 0.2: [1.51, 1.53, 1.50], 0.3: [1.90, 1.91, 1.92]},
    )
    found = compare(runs)
    assert found.keys == ["optimizer.lr"]
    (table,) = found.tables
    best, near, far = table.configurations
    assert [group.values["optimizer.lr"] for group in (best, near, far)] == [0.1, 0.2, 0.3]
    assert (best.words, near.words, far.words) == ("baseline", "inside the noise", "worse")
    assert near.difference == pytest.approx(0.01 / 3)
    assert far.p_value is not None
    assert far.p_value < 0.01
    assert "not to be told from it by these seeds: optimizer.lr=0.2" in tables.conclusion(table)


def test_a_baseline_that_is_named_is_the_measure(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, {0.1: [1.5, 1.52], 0.2: [1.9, 1.92]})
    (table,) = compare(runs, baseline=runs[2]).tables
    assert [group.words for group in table.configurations] == ["better", "baseline"]
    assert table.configurations[0].difference == pytest.approx(-0.4)


def test_one_seed_allows_no_statement(tmp_path: Path) -> None:
    (table,) = compare(runs_of(tmp_path, {0.1: [1.5], 0.2: [1.9, 1.92]})).tables
    assert table.configurations[1].words == "one seed: no statement"
    assert table.configurations[1].p_value is None
    assert "with one seed that may be noise" in tables.conclusion(table)


def test_runs_on_other_texts_are_not_ranked_together(tmp_path: Path) -> None:
    other = {**TEXT, "text_sha256": "cd" * 32}
    paths = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", validation=other),
        make_run(tmp_path / "c", validation={**TEXT, "utf8_bytes": 4000}),
        make_run(tmp_path / "d", validation=None),
    ]
    found = compare(read_runs(paths))
    assert len(found.tables) == 4
    assert "tables that do not compare with each other" in tables.introduction(found)
    assert "validation text that was not recorded" in found.tables[-1].protocol


def test_tokenizers_are_compared_on_the_same_text(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / name, config={"tokenizer.name": name}, seed=0)
        for name in ("char", "bpe")
    ]
    (table,) = compare(read_runs(paths)).tables
    assert len(table.configurations) == 2


def test_runs_that_did_not_finish_are_listed_with_the_reason(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "good"),
        make_run(tmp_path / "bad", status="failed", error="the loss is not finite", bpb=None),
        make_run(tmp_path / "stopped", status="stopped", error="place 3 of 3", bpb=1.0),
    ]
    found = compare(read_runs(paths))
    assert [run.status for run in found.unranked] == ["failed", "stopped"]
    assert list(tables.unranked(found.unranked, found.objective)) == [
        "run bad failed: the loss is not finite",
        "run stopped stopped: place 3 of 3",
    ]
    with pytest.raises(UserError, match="has not finished"):
        compare(found.runs, baseline=found.unranked[0])


def test_runs_of_other_lengths_are_marked_unless_their_compute_is_equal(tmp_path: Path) -> None:
    lengths = {f"l{n}": n for n in (1000, 2000)}
    paths = [
        make_run(tmp_path / name, tokens=n, config={"optimizer.lr": n / 1e6})
        for name, n in lengths.items()
    ]
    (table,) = compare(read_runs(paths)).tables
    assert any("differ in length, from 1,000 to 2,000 tokens" in note for note in table.notes)
    record = json.loads((paths[1] / "run.json").read_text())
    record["derived"]["flops_per_token"] = 500
    (paths[1] / "run.json").write_text(json.dumps(record))
    (table,) = compare(read_runs(paths)).tables
    assert any("equal compute" in note for note in table.notes)


def test_importance_is_the_share_of_variance_less_chance(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path / f"{lr}-{layers}-{seed}",
            bpb=1 + 10 * lr + 0.001 * seed,
            seed=seed,
            config={"optimizer.lr": lr, "model.n_layer": layers},
        )
        for lr in (0.1, 0.2)
        for layers in (1, 2)
        for seed in (0, 1)
    ]
    keys = ["optimizer.lr", "model.n_layer"]
    (table,) = compare(read_runs(runs)).tables
    shares = importance(table, keys)
    assert list(shares) == keys
    assert shares["optimizer.lr"] > 0.99
    assert shares["model.n_layer"] == 0
    (small,) = compare(read_runs(runs[:7])).tables
    assert importance(small, ["optimizer.lr"]) == {}


def test_every_form_has_the_same_numbers(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, {0.1: [1.5, 1.52], 0.2: [1.9, 1.92]})
    found = compare(runs)
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
    assert [float(row["val/bpb"]) for row in rows] == [1.5, 1.52, 1.9, 1.92]
    assert rows[0]["optimizer.lr"] == "0.1"
    content = json.loads(tables.as_json(found))
    (table,) = content["tables"]
    assert table["configurations"][0]["metrics"]["val/bpb"]["mean"] == pytest.approx(1.51)
    text = tables.markdown(found)
    assert "| 1 | 1.5100 ± 0.1271 |  |  | baseline | 0.1 | 2 |" in text


def test_a_seed_and_folders_make_no_other_configuration(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "x" / "a", seed=0, config={"cache_dir": "one"}),
        make_run(tmp_path / "y" / "b", seed=1, config={"cache_dir": "two"}),
    ]
    found = compare(read_runs(paths))
    assert found.keys == []
    assert len(found.tables[0].configurations) == 1


def test_what_only_one_component_has_is_no_difference_beside_its_name(tmp_path: Path) -> None:
    bpe = {"tokenizer.name": "bpe", "tokenizer.train_bytes": 5}
    paths = [
        make_run(tmp_path / "a", config={"tokenizer.name": "char"}),
        make_run(tmp_path / "b", config={**bpe, "tokenizer.vocab_size": 512}),
        make_run(tmp_path / "c", config={**bpe, "tokenizer.vocab_size": 1024}),
    ]
    assert compare(read_runs(paths)).keys == ["tokenizer.name", "tokenizer.vocab_size"]


def test_runs_are_ranked_by_a_number_of_an_evaluation(tmp_path: Path) -> None:
    records = runs_of(tmp_path, {1e-3: [1.0, 1.1, 1.2], 3e-3: [2.0, 2.1, 2.2]})
    for record in records:
        evaluated(record.path, 0.5 + (record.metric("val/bpb") or 0) / 10)
    comparison = compare(records, metric="choices/name")
    (table,) = comparison.tables
    assert [group.values["optimizer.lr"] for group in table.configurations] == [3e-3, 1e-3]
    assert [group.words for group in table.configurations] == ["baseline", "worse"]
    assert table.configurations[1].difference == pytest.approx(-0.1)
    text = tables.markdown(comparison)
    assert "choices/name" in text
    assert "items=200" in text
    assert "best: " in tables.conclusion(table)


def test_another_protocol_of_an_evaluation_is_another_table(tmp_path: Path) -> None:
    records = runs_of(tmp_path, {1e-3: [1.0], 3e-3: [2.0]})
    for record, items in zip(records, (200, 100), strict=True):
        evaluated(record.path, 0.5, items=items)
    assert len(compare(records, metric="choices/name").tables) == 2


def test_numbers_of_tokens_are_ranked_for_one_tokenizer_only(tmp_path: Path) -> None:
    records = []
    for number, (of_tokens, tokenizer) in enumerate([(True, "a"), (True, "b"), (False, "c")]):
        path = make_run(tmp_path / str(number), data={"tokenizer_fingerprint": tokenizer * 64})
        evaluated(path, 0.5, of_tokens=of_tokens)
        records += read_runs([path])
    of_all = compare(records, metric="choices/name").tables
    assert [len(table.configurations) for table in of_all] == [1, 1, 1]
    assert "tokenizer aaaaaaaa" in of_all[0].protocol
    assert "tokenizer" not in of_all[2].protocol


def test_a_reader_learns_what_an_evaluation_cannot_tell(tmp_path: Path) -> None:
    records = runs_of(tmp_path, {1e-3: [1.0], 3e-3: [2.0]})
    for record, version in zip(records, ("1.0", "2.0"), strict=True):
        evaluated(record.path, 0.5, made_by={"harper-py": version, "threads": version})
    (table,) = compare(records, metric="choices/name").tables
    assert any("choices/name is no headline" in note for note in table.notes)
    assert "measured with different harper-py: 1.0, 2.0" in table.notes
    assert not any("threads" in note for note in table.notes)


def test_presets_are_one_column(tmp_path: Path) -> None:
    sizes = {"nano": (4, 4, 64), "tiny": (5, 4, 128)}
    paths = [
        make_run(
            tmp_path / name,
            config={"model": {"name": "gpt", "n_layer": n, "n_head": h, "d_model": d}},
        )
        for name, (n, h, d) in sizes.items()
    ]
    found = compare(read_runs(paths))
    assert found.keys == ["model"]
    assert [group.label for group in found.tables[0].configurations] == ["model=nano", "model=tiny"]
    own = make_run(tmp_path / "own", config={"model": {"name": "gpt", "n_layer": 5, "d_model": 60}})
    assert compare(read_runs([*paths, own])).keys == ["model.n_layer", "model.d_model"]


def test_a_terminal_shows_the_fields_that_differ_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = runs_of(tmp_path, {0.1: [1.5], 0.2: [1.9]})
    deep = {"model.n_layer": 9, "optimizer.lr": 0.1}
    records += read_runs([make_run(tmp_path / "c", config=deep, validation=None)])
    tables.show(compare(records))
    first, second = re.findall(r" rank .*", capsys.readouterr().out)
    assert " lr " in first
    assert "n_layer" not in first
    assert "n_layer" in second


def test_a_narrow_terminal_shows_the_first_columns_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "WIDTH", 60)
    tables.show(compare(runs_of(tmp_path, {0.1: [1.5, 1.52], 0.2: [1.9, 1.92]})))
    printed = capsys.readouterr().out
    assert re.search(r"rank +val/bpb +difference +p +lr *\n", printed)
    assert "1.5100 ± 0.1271" in printed
    left_out = "not shown, as the terminal is narrow: seeds, val/loss, tokens"
    assert left_out in " ".join(printed.split())  # lines of 60 characters


def test_a_metric_that_no_run_has_is_reported_with_what_to_type(tmp_path: Path) -> None:
    records = runs_of(tmp_path, {1e-3: [1.0], 3e-3: [2.0]})
    with pytest.raises(UserError, match=r"python -m tinygpt.evaluate run=RUN suite=choices"):
        compare(records, metric="choices/name")
    evaluated(records[0].path, 0.5)
    records = read_runs([record.path for record in records])
    with pytest.raises(UserError, match=r"did you mean metric=choices/name\?"):
        compare(records, metric="choices/nam")
    with pytest.raises(UserError, match=r"metric=choices/words has no better direction"):
        compare(records, metric="choices/words")
    with pytest.raises(UserError, match=r"use val/bpb, val/loss, or a number"):
        compare(records, metric="bpb")
