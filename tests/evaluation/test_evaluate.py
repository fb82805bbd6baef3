"""Evaluation: numbers that are those of training, do not depend on batches, and see what they say.

One run of storyworld serves all tests here.
"""

import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import tinygpt
from tinygpt import evaluate
from tinygpt.components.datasets.storyworld.config import bits_of, story
from tinygpt.errors import UserError
from tinygpt.evaluation import intervals, minimal_pairs, storyworld_items, text_measures
from tinygpt.evaluation.bits import window_nats
from tinygpt.evaluation.minimal_pairs import Item
from tinygpt.evaluation.mirrors import mirror
from tinygpt.evaluation.scoring import compare_all, n_right
from tinygpt.evaluation.subject import Subject
from tinygpt.evaluation.suites.choices import ChoicesConfig
from tinygpt.evaluation.suites.generation import GenerationConfig
from tinygpt.evaluation.suites.likelihood import LikelihoodConfig
from tinygpt.interfaces import Finding
from tinygpt.records import evaluations
from tinygpt.records.read import RunRecord

STORIES = [story(0, "validation", number).text for number in range(80)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinygpt.Run]:
    path = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield tinygpt.run(
            [
                *("dataset=storyworld", "dataset.train_stories=40", "cache_dir=cache"),
                *("dataset.validation_stories=20", "tokenizer=char", "callback=[]"),
                *("model=nano", "model.n_layer=1", "model.d_model=16", "model.n_head=2"),
                *("trainer.seq_len=64", "trainer.micro_batch_size=4", "device=cpu"),
                *("trainer.tokens_per_step=256", "trainer.max_steps=4", "device.threads=1"),
                *("trainer.eval_every=2", "trainer.eval_bytes=4000"),
            ]
        )


@pytest.fixture(scope="module")
def subject(run: tinygpt.Run) -> Subject:
    return Subject(run.path, checkpoint="latest", device="cpu", say=print, warn=print)


def test_bits_per_byte_are_those_of_training_to_the_bit(run: tinygpt.Run, subject: Subject) -> None:
    assert subject.pinned_bpb() == run.summary["val/bpb"]


def test_scores_do_not_depend_on_the_batch_and_equal_those_of_the_api(
    run: tinygpt.Run, subject: Subject
) -> None:
    texts = [STORIES[0][:40], STORIES[1], "", "a", STORIES[2][:63], STORIES[3][:64]]
    together, alone = subject.text_nats(texts), subject.text_nats(texts, batch_size=1)
    latest = tinygpt.load(run.path, checkpoint="latest", device="cpu")
    for text, one, other in zip(texts, together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
        assert one.sum() == pytest.approx(-sum(t.logprob for t in latest.logprobs(text)), rel=1e-6)


def test_windows_that_overlap_score_each_token_once_and_with_more_context(
    subject: Subject,
) -> None:
    tokens = np.array(subject.prepared.tokens("validation")[:500], np.int64)
    plain = window_nats(subject, tokens, overlap=0)
    sliding = window_nats(subject, tokens, overlap=40)
    assert len(plain) == len(sliding) == 499
    np.testing.assert_allclose(plain[:64], sliding[:64], atol=1e-5)
    # the token at 64 + 10 sees 40 tokens that the plain windows hide from it
    window = torch.from_numpy(tokens[24 : 24 + 65])[None]
    with torch.no_grad():
        logits = subject.model(window[:, :-1]).double().log_softmax(-1)
    assert sliding[73] == pytest.approx(-logits[0, 49, tokens[74]].item(), abs=1e-5)


def test_items_are_made_by_rule_and_are_the_same_each_time() -> None:
    items = minimal_pairs.build(STORIES, items=20, seed=0)
    assert items == minimal_pairs.build(STORIES, items=20, seed=0)
    assert items != minimal_pairs.build(STORIES, items=20, seed=1)
    assert set(items) == set(minimal_pairs.RULES)
    for kind, found in items.items():
        assert 5 < len(found) <= 20
        for item in found:
            assert item.right != item.wrong
            assert any((item.context + item.right) in text for text in STORIES), kind
            assert not any((item.context + item.wrong) in text for text in STORIES), kind


@pytest.mark.parametrize(
    ("kind", "text", "right", "wrong"),
    [
        ("article", "He saw an owl and a cat.", {"an owl", "a cat"}, {"a owl", "an cat"}),
        ("pronoun", "Mia sat. She was sad. And then she ran. The end.", {"she"}, {"he"}),
        ("agreement", "The cats were big. They have it.", {"were", "have"}, {"was", "has"}),
        ("quote", 'He ran in. Now what? "Go on," said Tom to her.', {'" said'}, {" said"}),
    ],
)
def test_a_rule_changes_the_word_that_it_is_about(
    kind: str, text: str, right: set[str], wrong: set[str]
) -> None:
    corpus = minimal_pairs.Corpus.of([text])
    item = minimal_pairs.RULES[kind](text, corpus, random.Random(0))
    assert item
    assert item.right.startswith(tuple(right))
    assert item.wrong.startswith(tuple(wrong))


def test_the_grammar_tells_the_right_story_and_never_the_wrong_one() -> None:
    items = storyworld_items.build(STORIES[:12], items=4, seed=0)
    assert {"world_name", "world_object"} <= set(items)
    for found in items.values():
        for item in found:
            assert bits_of(item.context + item.right) > 0
            with pytest.raises(UserError, match="is not a story"):
                bits_of(item.context + item.wrong)


def test_the_likelier_continuation_is_chosen_and_equal_ones_tie(subject: Subject) -> None:
    nats = {text: float(subject.text_nats([text])[0].sum()) for text in ("Once a", "Once q")}
    (difference,) = compare_all(subject, [Item("Once ", "a", "q")])
    assert difference == pytest.approx(nats["Once q"] - nats["Once a"], abs=1e-5)
    assert compare_all(subject, [Item("Once ", "same", "same")]) == [0.0]
    (per_byte,) = compare_all(subject, [Item("Once", " aaaa", " q", per_byte=True)])
    own = [float(subject.text_nats([text])[0].sum()) for text in ("Once aaaa", "Once q", "Once")]
    assert per_byte == pytest.approx((own[1] - own[2]) / 2 - (own[0] - own[2]) / 5, abs=1e-5)


def test_intervals_are_those_of_the_books() -> None:
    found = intervals.share(8, 10, better="higher")
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # Wilson
    found = intervals.mean([1.0, 2.0, 3.0, 4.0], better=None)
    assert found.high == pytest.approx(2.5 + 1.959964 * math.sqrt(5 / 3) / 2)
    found = intervals.ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], better="lower")
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    shares = [intervals.share(5, 10, better="higher"), intervals.share(9, 10, better="higher")]
    found = intervals.mean_of_shares(shares)
    assert found.value == pytest.approx(0.7)
    assert found.high == pytest.approx(0.7 + 1.959964 * math.sqrt((0.25 + 0.09) / 10) / 2)


def test_a_number_is_shown_with_the_digits_that_its_interval_allows() -> None:
    assert Finding(3.51612, 3.502, 3.530).in_words() == "3.516 ± 0.014"
    assert Finding(685.7, 525.7, 845.7).in_words() == "686 ± 160"
    assert intervals.share(0, 20, better="higher").in_words() == "0 [0, 0.16]"
    assert Finding(0.25).in_words() == "0.25"


def test_copies_are_found_and_measured() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 50, 5000)
    copied = [*rng.integers(50, 60, 5), *train[1234:1271], *rng.integers(50, 60, 4)]
    assert text_measures.longest_copies([copied, [55, 56, 57], []], train) == [37, 0, 0]
    assert text_measures.share_of_copies([copied], train, 8) == pytest.approx(30 / 39)
    for n in (1, 2, 3, 7, 8, 13):  # equal spans have equal hashes, whatever comes before them
        whole = text_measures.Spans(train).hashes(n)
        assert len(whole) == 5000 - n + 1
        assert (text_measures.Spans(train[100:]).hashes(n) == whole[100:]).all()
        assert len(np.unique(whole)) == len(np.unique([*map(bytes, _spans(train, n))]))


def _spans(tokens: np.ndarray, n: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(tokens, n)


def test_measures_of_texts_see_what_they_are_named_for() -> None:
    assert text_measures.repeated("the cat sat on the cat sat on") == pytest.approx(1 / 5)
    assert text_measures.distinct(["a b a b"], 1) == 0.5
    assert text_measures.has_balanced_quotes('"Go," he said.\n\n"Stop."')
    assert not text_measures.has_balanced_quotes('"Go, he said.\n\nStop."')
    assert text_measures.kept_names("Then Tom sat. So it was, and Tom ran to Ann.") == 0.5
    assert text_measures.distance(["a b c"], ["a b c"], 1) == 0
    assert text_measures.distance(["a b c"], ["d e f"], 1) == pytest.approx(1)
    assert min(text_measures.self_bleu([STORIES[0]] * 3)) == pytest.approx(1)
    assert max(text_measures.self_bleu(STORIES[:3])) < 0.5
    assert text_measures.unknown_words("a zyx", {"a"}) == 0.5


def test_measures_of_texts_know_words_of_other_alphabets() -> None:
    text = "кот сидел на окне и кот спал"
    assert text_measures.distinct([text], 1) == pytest.approx(6 / 7)
    assert text_measures.distance([text], ["собака бежала домой"], 1) == pytest.approx(1)
    assert text_measures.words("Müller's café") == ["müller's", "café"]


def test_texts_with_nothing_to_measure_have_no_number() -> None:
    assert text_measures.self_bleu([STORIES[0]]) == []
    assert text_measures.distinct(["1 2 3"], 1) is None
    assert text_measures.distance(["1 2 3"], [STORIES[0]], 1) is None
    assert text_measures.distance([STORIES[0]], ["one"], 2) is None


def test_the_command_prints_a_table_and_keeps_every_number(
    run: tinygpt.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"run={run.path}", "choices.items=3", "choices.documents=20", "device=cpu"]
    typed += ["generation.samples=3", "generation.max_new_tokens=20", "likelihood.overlap=8"]
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(typed)
    printed = capsys.readouterr().out
    found = evaluations.read_all(run.path)
    assert set(found) == {"likelihood", "choices", "generation"}
    pinned = run.record.derived["validation"]["text_sha256"]
    assert found["likelihood"].protocol["pinned_sha256"] == pinned
    # all 20 documents are read; training evaluates fewer
    assert len({pinned, *(result.protocol["text_sha256"] for result in found.values())}) == 2
    for suite, result in found.items():
        for name, number in result.numbers.items():
            assert f"{suite}/{name} " in printed
            assert math.isfinite(number.value)
            assert number.low is None or number.low <= number.value
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(typed)
    assert capsys.readouterr().out.count("measured before") == 3
    content = json.loads((run.path / "evaluation" / "choices.json").read_text())
    assert content["protocol"]["settings"] == {"items": 3, "documents": 20, "seed": 0}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("suite=choises", r"suite=choises is not a choice; did you mean suite=choices\?"),
        ("choices.item=3", "choices.item"),
        ("choices.items=many", "choices.items=many is of the wrong type"),
        ("choices.items=0", "choices.items=0"),
        ("again=yes", "again=yes is not a choice"),
        ("likelihood.on=/nowhere", r"likelihood.on=/nowhere cannot be read: No such file"),
    ],
)
def test_a_mistake_is_one_line(
    run: tinygpt.Run, typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([f"run={run.path}", "device=cpu", typed])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(said, error), error


def test_a_setting_of_a_suite_that_does_not_run_is_an_error(
    run: tinygpt.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([f"run={run.path}", "suite=likelihood", "choices.items=3"])
    assert "choices.items=3 has no effect without suite=choices" in capsys.readouterr().err


def test_text_that_is_not_that_of_the_run_is_refused(
    run: tinygpt.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((run.path / "run.json").read_text())
    original = json.dumps(content)
    content["derived"]["validation"]["text_sha256"] = "0" * 64
    (run.path / "run.json").write_text(json.dumps(content))
    try:
        other = Subject(run.path, device="cpu", say=print, warn=print)
        with pytest.raises(UserError, match="was validated on another text"):
            _ = other.prepared
    finally:
        (run.path / "run.json").write_text(original)


def test_choices_while_training_are_those_of_the_suite_and_change_nothing(
    run: tinygpt.Run, subject: Subject, tmp_path: Path
) -> None:
    settings = [
        *("dataset=storyworld", "dataset.train_stories=40", "cache_dir=cache"),
        *("dataset.validation_stories=20", "tokenizer=char", "callback=[evaluate]"),
        *("model=nano", "model.n_layer=1", "model.d_model=16", "model.n_head=2"),
        *("trainer.seq_len=64", "trainer.micro_batch_size=4", "device=cpu"),
        *("trainer.tokens_per_step=256", "trainer.max_steps=4", "device.threads=1"),
        *("trainer.eval_every=2", "trainer.eval_bytes=4000", "callback.evaluate.items=4"),
    ]
    watched = tinygpt.run([*settings, f"output_dir={tmp_path}"], quiet=True)
    assert watched.summary["val/bpb"] == run.summary["val/bpb"]
    items = minimal_pairs.build(subject.documents(limit=40), items=4, seed=0)
    for kind, found in items.items():
        right = n_right(compare_all(subject, found)) / len(found)
        assert watched.metrics[-1][f"choices/{kind}"] == right


def test_a_suite_of_ones_own_is_one_file(
    run: tinygpt.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_suite.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    typed = [f"run={run.path}", "components=[my_suite]", "suite=vowels", "vowels.documents=5"]
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(typed)
    number = evaluations.read_all(run.path)["vowels"].numbers["nats_per_vowel"]
    assert number.value > 0


def measured(run: Path, *typed: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        evaluate.main([f"run={run}", "suite=likelihood", "device=cpu", *typed])


def test_a_changed_file_is_measured_again(run: tinygpt.Run, tmp_path: Path) -> None:
    file, found = tmp_path / "own.txt", []
    for text in ("Once upon a time", "zzzzzz qqqq"):
        file.write_text(text)
        measured(run.path, f"likelihood.on={file}", f"out={tmp_path}")
        result = evaluations.read(tmp_path / run.path.name / "likelihood.json")
        assert result is not None
        found.append((result.numbers["bpb_on_file"].value, result.protocol_id))
    (first, its_protocol), (second, other_protocol) = found
    assert second != first
    assert other_protocol != its_protocol


def test_runs_of_the_same_name_keep_results_of_their_own(
    run: tinygpt.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sweep in ("a", "b"):
        shutil.copytree(run.path, tmp_path / sweep / "0")
    out = tmp_path / "results"
    measured(tmp_path / "a" / "0", f"run={tmp_path / 'b' / '0'}", f"out={out}")
    assert re.search(r"^ +a/0 +b/0$", capsys.readouterr().out, re.MULTILINE)
    assert {str(path.relative_to(out)) for path in out.rglob("*.json")} == {
        "a/0/likelihood.json",
        "b/0/likelihood.json",
    }


def test_a_result_of_other_weights_is_not_taken_for_one_of_these(
    run: tinygpt.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(run.path, f"out={tmp_path}")
    path = tmp_path / run.path.name / "likelihood.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    capsys.readouterr()
    measured(run.path, f"out={tmp_path}")
    assert "measured before" not in capsys.readouterr().out
    assert json.loads(path.read_text())["weights_sha256"] == content["weights_sha256"]


@pytest.mark.parametrize(
    "damage",
    [
        {"numbers": {"bpb": {"value": "high"}}},
        {"numbers": {"bpb": {"value": 1.0, "low": [], "high": 2.0}}},
        {"protocol": {}},
        {"protocol": None},
        {"notes": [3]},
        {"notes": None},
    ],
)
def test_a_damaged_result_is_none(tmp_path: Path, damage: dict[str, object]) -> None:
    result = evaluations.Result(
        suite="likelihood",
        protocol={"settings": {}, "text_sha256": ""},
        checkpoint="step-1",
        numbers={"bpb": Finding(1.0)},
        examples={},
        notes=[],
        seconds=1.0,
        made_by={},
    )
    path = evaluations.write(tmp_path, result)
    assert evaluations.read(path) == result
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert evaluations.read(path) is None


def test_help_shows_the_default_and_the_meaning_of_every_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    told = capsys.readouterr().out
    assert re.search(r"tasks.names=\[\] +such as \[my_pairs\]; all of the folder if empty", told)
    assert re.search(r"judge.model=null +\(text\) the judge's name on that server", told)
    assert re.search(r"choices.seed=0 +another seed makes other items", told)
    assert "MISSING" not in told


def test_a_suite_that_cannot_measure_a_run_keeps_no_other_from_it(
    run: tinygpt.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["suite=likelihood,choices", "choices.items=2", "likelihood.overlap=64"]
    broken = tmp_path / "broken"
    shutil.copytree(run.path, broken)
    (broken / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(SystemExit, match="1"):
        evaluate.main([f"run={broken}", f"run={run.path}", "device=cpu", *typed, f"out={tmp_path}"])
    printed = capsys.readouterr()
    assert "choices/mean" in printed.out
    assert printed.err.count("error: ") == 2
    assert "likelihood.overlap=64 must be below trainer.seq_len=64" in printed.err
    assert [path.name for path in (tmp_path / run.path.name).iterdir()] == ["choices.json"]


def test_finished_evaluations_are_in_tensorboard(
    run: tinygpt.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    measured(run.path, f"out={tmp_path}")
    result = evaluations.read(tmp_path / run.path.name / "likelihood.json")
    assert result is not None
    loggers: dict[str, dict[str, object]] = {"tensorboard": {}, "wandb": {}}
    mirror(RunRecord(tmp_path, {}, {"logger": loggers}, {}), {"likelihood": result})
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    (event,) = found.Scalars("evaluation/likelihood/bpb_split/low")
    low = result.numbers["bpb_split"].low
    assert (event.step, event.value) == (4, pytest.approx(low, rel=1e-6))


def test_a_result_says_when_the_run_has_trained_on(run: tinygpt.Run, tmp_path: Path) -> None:
    measured(run.path, f"out={tmp_path}", "checkpoint=latest")
    result = evaluations.read(tmp_path / run.path.name / "likelihood.json")
    assert result is not None
    assert evaluations.outdated(run.path, result) is None
    later = tmp_path / "later"
    shutil.copytree(run.path, later)
    (step,) = (later / "checkpoints").glob("step-*4")
    sums = json.loads((step / "checksums.json").read_text())
    (step / "checksums.json").write_text(json.dumps(sums | {"model.safetensors": "0" * 64}))
    step.rename(step.with_name("step-00000009"))
    reason = evaluations.outdated(later, result)
    assert reason is not None
    assert reason.startswith("likelihood was measured at step-00000004, and the run is now at step")
    assert f"python -m tinygpt.evaluate run={later} suite=likelihood" in reason


def test_numbers_do_not_depend_on_batches_or_on_prepared_text(
    run: tinygpt.Run, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = [LikelihoodConfig(), ChoicesConfig(items=3), GenerationConfig(samples=3)]
    suites[2].max_new_tokens = 30
    found = [suite.run(subject).numbers for suite in suites]
    shutil.move(run.path.parents[1] / "cache", run.path.parents[1] / "moved")
    try:
        fresh = Subject(run.path, checkpoint="latest", device="cpu", say=print, warn=print)
        monkeypatch.setattr("tinygpt.evaluation.subject.LOGITS_AT_ONCE", 1)  # one text at once
        again = [suite.run(fresh).numbers for suite in suites]
        assert fresh.text_sha256() == subject.text_sha256()
    finally:
        shutil.rmtree(run.path.parents[1] / "cache")
        shutil.move(run.path.parents[1] / "moved", run.path.parents[1] / "cache")
    for one, other in zip(found, again, strict=True):
        assert one.keys() == other.keys()
        for name, number in one.items():
            assert number.value == pytest.approx(other[name].value, rel=1e-6), name
