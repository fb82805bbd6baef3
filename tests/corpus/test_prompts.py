"""The example prompt of a dataset, and the sample command that uses it."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.tokenizers.byte import ByteConfig
from tinygpt.config import PrepareConfig
from tinygpt.corpus.prepared import prepare
from tinygpt.corpus.prompts import example_prompt
from tinygpt.records.hints import sample_command


@pytest.mark.parametrize(
    ("document", "prompt"),
    [
        ("Tom had a red ball. He ran.", "Tom had a red"),
        ("\n\n  # Title\nsome words", "# Title"),
        ("One\nTwo words here", "Two words here"),
        ("介绍一下你自己。" * 20, ("介绍一下你自己。" * 20)[:60]),
        ("\x1b[31m red\nplain text", "plain text"),
        ("word", "word"),
    ],
)
def test_a_prompt_is_the_first_words_of_a_validation_document(
    tmp_path: Path, document: str, prompt: str
) -> None:
    (tmp_path / "a.txt").write_text("|".join(document + " " * i for i in range(12)))
    dataset = TextConfig(path=str(tmp_path / "a.txt"), separator="|", validation_fraction=0.5)
    cfg = PrepareConfig(
        dataset=dataset, tokenizer=ByteConfig(), cache_dir=str(tmp_path / "cache"), workers=1
    )
    assert example_prompt(prepare(cfg, lambda text: None)) == prompt


def test_the_end_of_a_single_document_offers_a_whole_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "a first line that is cut somewhere\nthe next one is whole\n" * 9
    )
    dataset = TextConfig(path=str(tmp_path / "a.txt"), validation_fraction=0.2)
    cfg = PrepareConfig(
        dataset=dataset, tokenizer=ByteConfig(), cache_dir=str(tmp_path / "cache"), workers=1
    )
    assert example_prompt(prepare(cfg, lambda text: None)) in (
        "a first line that",
        "the next one is",
    )


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"config": {"callback": {"sample": {"prompts": ["It's"]}}}}, "It's"),
        ({"config": {"callback": {"s": {"prompts": None}}}, "data": {"prompts": ["A b"]}}, "A b"),
        ({"config": {"callback": {"early_stop": {}}}, "data": {"prompts": ["A b"]}}, "A b"),
        ({"data": {"checksums": {}}}, ""),
    ],
)  # fmt: skip
def test_the_hint_after_training_uses_the_prompts_of_the_run(
    record: dict[str, Any], prompt: str
) -> None:
    *start, run, typed = shlex.split(sample_command(Path("my runs/a"), record))
    assert start == ["python", "-m", "tinygpt.sample"]
    assert (run, typed) == ("run=my runs/a", f"prompt={prompt}")
