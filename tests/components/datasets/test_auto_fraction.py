"""dataset.fraction=auto: a run downloads what its tokens need, and records the number."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.components.datasets.test_hub_streaming import FOOTER, GROUP_ROWS, ROW, ROWS, large
from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.components.datasets.reading import amounts
from tinygpt.components.datasets.tiny_stories import TinyStoriesConfig
from tinygpt.components.datasets.tiny_stories_clean import TinyStoriesCleanConfig
from tinygpt.config import RunConfig, compose
from tinygpt.errors import UserError

# trains a run of characters, resumes it with a longer length, and prepares without a length
PROGRAM = """
import json, sys
import tinygpt
from tinygpt import console
from tinygpt.prepare import main
console.log_to_console()
small = ["tokenizer=char", "model=nano", "model.n_layer=1", "model.d_model=32"]
small += ["trainer.seq_len=64", "trainer.tokens_per_step=256", "trainer.micro_batch_size=4"]
small += ["device.compile=never", "callback=[]"]
run = tinygpt.run([*small, "trainer.max_steps=2", "cache_dir=tokens", "workers=1"])
again = tinygpt.run([f"resume={run.path}", "trainer.max_steps=1000000", "until=3"])
main(["tokenizer=char", "cache_dir=others", "workers=1"])
print(json.dumps([[r.config.dataset.fraction, r.record.run["data"]] for r in (run, again)]))
"""


def composed(*settings: str) -> RunConfig:
    cfg: RunConfig = compose.compose("train", ["tokenizer=char", *settings])
    return cfg


@pytest.fixture(scope="module")
def output(machine: Any) -> list[str]:
    """What the program printed, on a machine whose hub has a small TinyStories."""
    machine.hub.repos["roneneldan/TinyStories"] = large()
    environment = {name: os.environ[name] for name in os.environ if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": machine.hub.url, "HF_HOME": str(machine.home)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    process = processes.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=machine.home,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.slow  # parts are downloaded in test_hub_streaming.py, fractions follow below
def test_a_run_downloads_what_it_trains_on_and_says_how_much(
    machine: Any, output: list[str]
) -> None:
    n_rows = round(0.01 * len(ROWS))
    footers, validation = 5 * FOOTER, 2000
    served = machine.hub.served["roneneldan/TinyStories"]
    assert n_rows * 1000 < served < (n_rows + GROUP_ROWS) * ROW + footers + validation
    [of_run, of_prepare] = [line.strip() for line in output if "training text:" in line]
    assert of_run == (
        "training text: 1 % of roneneldan/TinyStories (about 19 MB), enough for 512 tokens; what "
        "the local cache lacks is downloaded; dataset.fraction=1 takes all of it"
    )
    assert "1 % of roneneldan/TinyStories (about 19 MB), enough for 10,000,000 tok" in of_prepare


@pytest.mark.slow  # shares the run above
def test_a_resume_with_a_longer_length_keeps_its_text(output: list[str]) -> None:
    before, after = json.loads(output[-1])
    assert before[0] == 0.01
    assert after == before
    assert [line for line in output if "1,000,000 steps" in line and "passes over" in line]


@pytest.mark.parametrize(
    ("settings", "fraction"),
    [
        ([], 0.01),
        (["tokenizer=bpe"], 0.05),
        (["trainer.max_tokens=100M"], 0.1),
        (["trainer.max_steps=100000"], 0.5),
        (["trainer.max_tokens=2B"], 1.0),
        (["dataset=tiny_stories_clean", "trainer.max_tokens=100M"], 0.1),
        (["dataset.validation_split=null", "dataset.validation_fraction=0.5"], 0.02),
        # how many tokens these train on is not known before the text is there
        (["trainer.max_time=1m"], 1.0),
        (["trainer.max_epochs=1"], 1.0),
        (["trainer.max_flops=1e12"], 1.0),
        # other rows than those whose size is known
        (["dataset.path=/somewhere"], 1.0),
        (["dataset.max_documents=9"], 1.0),
        (["dataset.train_rows=0:9"], 1.0),
        (["dataset.repo=someone/else"], 1.0),
        (["dataset=storyworld"], None),
        (["dataset=hub", "dataset.repo=someone/else"], 1.0),
    ],
)
def test_the_fraction_follows_from_the_length_of_the_run(
    settings: list[str], fraction: float | None
) -> None:
    assert getattr(composed(*settings).dataset, "fraction", None) == fraction


def test_a_typed_fraction_is_kept_whatever_the_length() -> None:
    cfg = composed("dataset.fraction=1", "trainer.max_tokens=1M")
    assert cfg.dataset == TinyStoriesConfig(fraction=1.0)
    longer = replace(composed(), trainer=composed("trainer.max_tokens=1B").trainer)
    assert longer.dataset == TinyStoriesConfig(fraction=0.01)


def test_the_part_is_at_least_a_quarter_larger_than_what_is_trained_on() -> None:
    steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    for needed in (1e-9, 0.008, 0.0081, 0.03, 0.079, 0.39, 0.41, 1.0, 7.0):
        assert amounts.enough(needed) == min(s for s in steps if s >= min(needed * 1.25, 1))


def test_the_part_read_is_reported_for_every_way_to_choose_it() -> None:
    def amount(**fields: Any) -> str:
        return HubConfig(repo="a/b", **fields).amount().partition(": ")[2]

    cached = "what the local cache lacks is downloaded"
    assert amount() == f"all of a/b; {cached}; dataset.fraction=0.1 takes a tenth"
    assert amount(fraction=0.2) == f"20 % of a/b; {cached}; dataset.fraction=1 takes all of it"
    assert amount(max_documents=2000) == f"2,000 documents of a/b; {cached}"
    assert TinyStoriesConfig(path="here").amount() == ""
    assert "all of roneneldan/TinyStories (about 1,900 MB);" in (
        composed("trainer.max_time=1m").dataset.amount()
    )
    assert TinyStoriesCleanConfig().open().identity["fraction"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["dataset.fraction=abc"],
            "=abc must be a number above 0 and at most 1, such as 0.1, or a",
        ),
        (["dataset.fraction=1.5"], "dataset.fraction=1.5 must be at most 1"),
        (
            ["dataset=hub", "dataset.repo=a/b", "dataset.fraction=auto"],
            "dataset.fraction=auto needs a dataset whose size is known, such as tiny_stories",
        ),
        (
            ["dataset=hub", "dataset.repo=a/b", "dataset.fraction=al"],
            r"=al must be a number above 0 and at most 1, such as 0.1$",
        ),
        (["dataset.fraction=0.5", "dataset.max_documents=9"], "both say how much to train on"),
    ],
)
def test_a_fraction_that_cannot_be_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*settings)
