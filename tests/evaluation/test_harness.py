"""lm-evaluation-harness with our models, on task files of this test, without a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinygpt
from tinygpt import evaluate
from tinygpt.evaluation.subject import Subject

PAIRS = [("He was", "He were"), ("a cat", "an cat"), ("an owl", "a owl")]
HELLASWAG_LIKE = [
    ("Tom had a red", [" ball", " qxz", " zzz"], 0),
    ("He ran and", [" q", " ran"], 1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with a run and with tasks like BLiMP, HellaSwag and WikiText."""
    path = tmp_path_factory.mktemp("harness")
    (path / "tasks").mkdir()
    (path / "text.txt").write_text("Tom had a red ball. He ran and ran.\n\nMia saw a cat.\n\n" * 40)
    files = {
        "pairs": [{"good": good, "bad": bad} for good, bad in PAIRS],
        "endings": [{"ctx": c, "choices": e, "label": n} for c, e, n in HELLASWAG_LIKE],
        "pages": [{"text": "Tom had a red ball. He ran."}, {"text": "Mia saw a cat."}],
    }
    for name, rows in files.items():
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {}\ntest_split: test\n"
    tasks = {
        "pairs": """output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        "endings": """output_type: multiple_choice
doc_to_text: "{{ctx}}"
doc_to_target: label
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        "pages": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    }
    for name, text in tasks.items():
        content = f"task: {name}\n" + common.format(path / f"{name}.jsonl") + text
        (path / "tasks" / f"{name}.yaml").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        tinygpt.run(
            [
                *("dataset=text", "dataset.path=text.txt", "tokenizer=char", "callback=[]"),
                *("model=nano", "model.n_layer=1"),
                *("model.d_model=16", "model.n_head=2", "trainer.seq_len=32", "device=cpu"),
                *("trainer.micro_batch_size=4", "trainer.tokens_per_step=128"),
                *("trainer.max_steps=30", "optimizer.lr=1e-2", "cache_dir=cache"),
            ]
        )
        yield path


@pytest.mark.slow  # the tests below score requests without a task
def test_local_tasks_are_scored_as_the_model_scores_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(["run=latest", "suite=tasks", "tasks.folder=tasks", "device=cpu"])
    printed = capsys.readouterr().out
    run = tinygpt.load()
    numbers = run.record.evaluations["tasks"].numbers

    def nats(text: str) -> float:
        return -sum(token.logprob for token in run.logprobs(text))

    right = sum(nats(good) < nats(bad) for good, bad in PAIRS)
    assert numbers["pairs/acc"].value == pytest.approx(right / len(PAIRS))
    pages = ["Tom had a red ball. He ran.", "Mia saw a cat."]
    bits = sum(map(nats, pages)) / sum(len(page) for page in pages) / 0.6931471805599453
    assert numbers["pages/bits_per_byte"].value == pytest.approx(bits, rel=1e-5)
    assert numbers["endings/acc"].value == 1.0
    assert "tasks/pairs/acc" in printed


def test_requests_are_answered_as_the_harness_asks(folder: Path) -> None:
    from tinygpt.evaluation.harness import HarnessModel  # with lm_eval, which takes long

    class Request:
        def __init__(self, *args: object) -> None:
            self.args = args

    run = tinygpt.load()
    model = HarnessModel(subject=Subject(run.path, device="cpu", say=print, warn=print))
    (greedy,) = model.generate_until([Request("Tom had", {"until": ["."], "max_gen_toks": 12})])
    assert greedy == run.generate("Tom had", temperature=0, max_new_tokens=12)[0].split(".")[0]
    (logprob, likeliest), empty = model.loglikelihood(
        [Request("Tom had", greedy[:4]), Request("", "Tom")]
    )
    assert likeliest
    assert logprob == pytest.approx(
        sum(t.logprob for t in run.logprobs("Tom had" + greedy[:4])[7:])
    )
    assert empty[0] == pytest.approx(sum(t.logprob for t in run.logprobs("Tom")), rel=1e-5)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "suite=tasks needs task files; type tasks.folder=FOLDER"),
        (["tasks.folder=nowhere"], "tasks.folder=nowhere is not a folder"),
        (["tasks.folder=tasks", "tasks.names=[pair]"], "did you mean pairs?"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["run=latest", "suite=tasks", "device=cpu", *typed])
    assert said in capsys.readouterr().err
