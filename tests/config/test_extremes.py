"""Impossible values are refused with a one-line error before a run folder exists."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tinygpt import config
from tinygpt.config import RunConfig, compose, overrides
from tinygpt.errors import LARGEST, UserError
from tinygpt.sample import SampleConfig, parse

FIVE = "\u0665"  # an Arabic digit
DIGITS = "9" * 5000
SHOWN = "9" * 40 + "... (5,000 characters)"
PATH = "a/" * 3000


def composed(settings: list[str]) -> RunConfig:
    """The config of the run that is typed like this."""
    (typed,) = overrides.jobs(settings, multirun=False)
    cfg: RunConfig = compose.compose("train", typed)
    return cfg


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """A run as its config.yaml holds it."""
    return config.to_dict(composed(["callback=[sample]", "tokenizer=bpe"]))


def refusal(setting: str, content: dict[str, Any]) -> str:
    """What is said of a setting that is typed for such a run."""
    try:
        (override,) = overrides.parse([setting])
        *parents, leaf = override.key_or_group.split(".")
        changed = node = copy.deepcopy(content)
        for parent in parents:
            node = node[parent]
        node[leaf] = override.value()
        config.resolve(changed, RunConfig)
    except UserError as error:
        return str(error)
    pytest.fail(f"{setting} is accepted")


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        # too large
        ("device.threads=100000", "device.threads=100000 must be at most 1024"),
        ("workers=100000", "workers=100000 must be at most 1024"),
        ("seed=18446744073709551616", "must be at most 18446744073709551615"),
        (f"seed={DIGITS}", f"seed={SHOWN} has too many digits"),
        (f"trainer.max_steps={DIGITS}", f"trainer.max_steps={SHOWN} has too many digits"),
        (f"trainer.max_steps={DIGITS[:4000]}", "(4,000 characters) must be below 1e+30"),
        (f"trainer.max_tokens={DIGITS}", f"trainer.max_tokens={SHOWN} has too many digits"),
        (f"trainer.max_tokens={DIGITS}M", "(5,001 characters) must be at most 1e+18"),
        (f"trainer.max_time={DIGITS}s", "trainer.max_time=inf must be finite"),
        ("trainer.max_tokens=1e308", "trainer.max_tokens=1e+308 is not a count"),
        ("trainer.max_tokens=10_000_000_000B", "must be at most 1000000000000000000"),
        ("trainer.eval_bytes=1000000000000000000000", "must be at most 1000000000000000000"),
        ("trainer.max_flops=1e308", "trainer.max_flops=1e+308 must be at most 1e+30"),
        ("trainer.max_epochs=1e308", "must be at most 1e+30 and at most 1000000000.0"),
        ("trainer.max_time=99999999999", "trainer.max_time=99999999999.0 must be at most"),
        ("trainer.seq_len=1000000000", "trainer.seq_len=1000000000 must be at most 16777216"),
        ("trainer.tokens_per_step=1000000000000000", "must be at most 1099511627776"),
        ("trainer.keep_checkpoints=10000000000000000000", "must be at most 1000000000000000"),
        ("trainer.grad_clip=1e308", "trainer.grad_clip=1e+308 must be at most 1e+30"),
        ("model.d_model=100000000", "model.d_model=100000000 must be at most 1000000"),
        ("model.n_layer=1000000000", "model.n_layer=1000000000 must be at most 10000"),
        ("optimizer.lr=1e308", "optimizer.lr=1e+308 must be at most 1e+30"),
        ("optimizer.lr=inf", "optimizer.lr=inf must be finite"),
        ("tokenizer.vocab_size=1000000000000", "tokenizer.vocab_size=1000000000000 must be at mos"),
        ("callback.sample.num_samples=1000000000", "must be at most 10000"),
        ("callback.sample.max_new_tokens=1000000000000", "must be at most 1000000000"),
        # too small
        ("trainer.max_epochs=1e-300", "trainer.max_epochs=1e-300 must be 0 or at least 1e-30"),
        ("trainer.max_flops=1e-300", "must be 0 or at least 1e-30 and at least 1"),
        ("trainer.max_time=1e-300", "trainer.max_time=1e-300 is not a duration"),
        ("trainer.max_tokens=1e-300", "trainer.max_tokens=1e-300 is not a count"),
        ("optimizer.lr=1e-300", "optimizer.lr=1e-300 must be 0 or at least 1e-30"),
        ("schedule.warmup_ratio=1e-300", "must be 0 or at least 1e-30"),
        # no number
        ("optimizer.lr=nan", "optimizer.lr=nan must be"),
        ("trainer.max_flops=nan", "trainer.max_flops=nan must be"),
        # digits of another script, which Python's int() takes
        (f"seed={FIVE}", f"seed={FIVE} has other digits than 0 to 9; type seed=5"),
        (f"trainer.max_tokens={FIVE}M", f"trainer.max_tokens={FIVE}M is not a count"),
        (f"trainer.max_time={FIVE}m", f"trainer.max_time={FIVE}m is not a duration"),
        (f"optimizer.lr={FIVE}", "has other digits than 0 to 9; type optimizer.lr=5"),
        # paths
        ("output_dir=", "output_dir= is empty; type output_dir=FOLDER"),
        ("cache_dir=' '", "cache_dir=  is empty; type cache_dir=FOLDER"),
        (f"output_dir={'a' * 300}", "(300 characters) has a name of more than 255 bytes in it"),
        (f"output_dir={'ä' * 200}", "(200 characters) has a name of more than 255 bytes in it"),
        (f"cache_dir={PATH}", "(6,000 characters) is longer than 4,095 bytes"),
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_have_is_refused(
    setting: str, rule: str, content: dict[str, Any]
) -> None:
    said = refusal(setting, content)
    assert rule in said
    assert len(said) < 250
    assert "\n" not in said


def test_the_largest_values_are_accepted(content: dict[str, Any]) -> None:
    large = copy.deepcopy(content)
    large["seed"] = 2**64 - 1
    large["trainer"] |= {"max_tokens": 10**18, "tokens_per_step": 1 << 40, "seq_len": 1 << 24}
    large["model"] |= {"n_layer": 10_000, "d_model": 1_000_000, "n_head": 1000}
    large["optimizer"]["lr"] = LARGEST
    config.resolve(large, RunConfig)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (json.dumps({"output_dir": "a\0b"}), r"output_dir=a\x00b has a NUL character in it"),
        (json.dumps({"seed": FIVE}), "has other digits than 0 to 9; type seed=5"),
        ('{"seed": ' + DIGITS + "}", "Exceeds the limit (4300 digits)"),
        ("[" * 100_000, "is nested too deeply to be a config"),
    ],
)
def test_a_config_file_with_such_a_value_is_refused(text: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        composed([f"config_file={path}"])
    assert rule in str(error.value)


def test_a_config_file_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")  # reading it would wait for a writer
    for typed, rule in (
        (str(tmp_path / "pipe.yaml"), "is not a file"),
        ("a" * 300, "has a name of more than 255 bytes"),
        (PATH, "is longer than 4,095 bytes"),
    ):
        with pytest.raises(UserError, match=rule):
            overrides.jobs([f"config_file={typed}"], multirun=False)


@pytest.mark.parametrize("setting", ["callback=[sample,sample]", "logger=[wandb,jsonl,wandb]"])
def test_a_choice_that_is_made_twice_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"twice; type (callback=\[sample]|logger=\[wandb,jsonl])$"):
        overrides.jobs([setting], multirun=False)


def test_digits_of_another_script_are_refused_as_typed() -> None:
    with pytest.raises(UserError) as error:
        composed([f"trainer.max_steps={FIVE}"])
    assert str(error.value) == (
        f"trainer.max_steps={FIVE} has other digits than 0 to 9; type trainer.max_steps=5"
    )
    assert composed([f"name=run{FIVE}"]).name == f"run{FIVE}"


@pytest.mark.parametrize(
    ("typed", "rule"),
    [
        ("num_samples=1000000000", "num_samples=1000000000 must be at most 1000000"),
        ("max_new_tokens=1000000000000", "must be at most 1000000000"),
        (f"seed={DIGITS}", "is of the wrong type"),
        ("seed=18446744073709551616", "must be at most 18446744073709551615"),
        (f"top_k={FIVE}", f"top_k={FIVE} has other digits than 0 to 9; type top_k=5"),
        ("temperature=1e308", "temperature=1e+308 must be at most 1e+30"),
        (f"run={PATH}", "is longer than 4,095 bytes"),
        (f"output_dir={'a' * 300}", "has a name of more than 255 bytes in it"),
    ],
)
def test_sampling_refuses_them_too(typed: str, rule: str) -> None:
    with pytest.raises(UserError) as error:
        assert isinstance(parse([typed]), SampleConfig)
    assert rule in str(error.value)
