"""A run's config: the meaning of values, refused values, and saving and loading."""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt import config, registry
from tinygpt.components.callbacks.sample import SampleConfig
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.config import HORIZONS, DataConfig, PrepareConfig, RunConfig, TrainerConfig
from tinygpt.config.compose import compose
from tinygpt.errors import UserError

ROOT = Path(__file__).parents[2]
TEXT = ["dataset=text", "dataset.path=stories.txt"]
MINIMAL = {
    "dataset": {"name": "text", "path": "stories.txt"},
    "tokenizer": {"name": "char"},
    "model": {"name": "gpt"},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "cosine"},
}


def setup_module() -> None:
    registry.import_all()


def resolve(**changes: Any) -> RunConfig:
    """The smallest config that is complete, with other values for some keys."""
    return config.resolve(MINIMAL | changes, RunConfig)


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        (5_000_000, 5_000_000),
        (5e6, 5_000_000),
        ("5_000_000", 5_000_000),
        ("5M", 5_000_000),
        ("5m", 5_000_000),
        ("2.5K", 2_500),
        ("2.3M", 2_300_000),  # 2.3 * 1e6 is 2299999.9999999995
        ("1.001B", 1_001_000_000),
        ("9007199254740993", 9007199254740993),  # no float holds it
        ("5e6", 5_000_000),
        (1e16, 10**16),
        ("1.5e3K", 1_500_000),
    ],
)
def test_a_count_may_be_written_in_short(typed: float | str, count: int) -> None:
    assert config.parse_count("f", typed) == count


@pytest.mark.parametrize("typed", [0, "0.5", "1.2345K", 5.5])
def test_a_count_is_whole_and_at_least_one(typed: float | str) -> None:
    with pytest.raises(UserError, match=rf"^f={typed} must be a whole number, at least 1$"):
        config.parse_count("f", typed)


@pytest.mark.parametrize("typed", [-5, "lots", "5MB", "", "M", "inf", "5 M", "0x10", "٣", "1e999"])
def test_what_is_no_count_is_refused_with_examples(typed: int | str) -> None:
    with pytest.raises(UserError) as error:
        config.parse_count("f", typed)
    assert str(error.value) == f"f={typed} is not a count; type 5000000, 5_000_000 or 5M"


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [(90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("1.5m", 90), ("1h30m", 5400), ("2d", 172800)],
)
def test_a_duration_is_in_seconds_unless_it_says_otherwise(
    typed: float | str, seconds: float
) -> None:
    assert config.parse_duration("f", typed) == seconds


@pytest.mark.parametrize("typed", ["soon", "1h 30m", "m", "1h30", "-5", ""])
def test_what_is_no_duration_is_refused_with_examples(typed: str) -> None:
    with pytest.raises(UserError) as error:
        config.parse_duration("f", typed)
    assert str(error.value) == f"f={typed} is not a duration; type 90s, 15m or 1h30m"


def test_no_time_is_no_duration() -> None:
    with pytest.raises(UserError, match=r"f=0\.0 must be above 0"):
        config.parse_duration("f", 0)


@pytest.mark.parametrize(
    "horizon", [{"max_tokens": "5M"}, {"max_steps": 3}, {"max_epochs": 0.5}, {"max_time": "1m"}]
)
def test_a_horizon_leaves_the_other_three_off(horizon: dict[str, Any]) -> None:
    trainer = resolve(trainer=horizon).trainer
    assert [name for name in HORIZONS if getattr(trainer, name) is not None] == [*horizon]


def test_without_a_horizon_none_is_made_up() -> None:
    assert all(getattr(resolve().trainer, name) is None for name in HORIZONS)


@pytest.mark.parametrize("typed", [1e3, "1e3", "1_000", "1000", 1000])
def test_a_whole_number_may_be_written_as_a_float(typed: float | str) -> None:
    cfg = resolve(seed=typed, trainer={"max_steps": typed, "micro_batch_size": 16})
    assert (cfg.seed, cfg.trainer.max_steps) == (1000, 1000)
    data = {key: MINIMAL[key] for key in ("dataset", "tokenizer")}
    assert config.resolve(data | {"candidates": [typed]}, DataConfig).candidates == [1000]


def test_two_horizons_are_refused_with_both_values() -> None:
    with pytest.raises(UserError) as error:
        TrainerConfig(max_steps=10, max_time="5m")
    assert str(error.value) == (
        "trainer.max_steps=10 and trainer.max_time=5m are both set, but a run has one length; "
        "turn one off with trainer.max_steps=null"
    )


def test_shorthands_are_numbers_after_resolving() -> None:
    trainer = resolve(trainer={"max_tokens": "5M", "eval_bytes": 2e4}).trainer
    assert (trainer.max_tokens, trainer.eval_bytes) == (5_000_000, 20_000)
    assert type(trainer.eval_bytes) is int
    assert resolve(trainer={"max_time": "1h"}).trainer.max_time == 3600


def test_a_step_is_made_of_whole_forwards() -> None:
    trainer = TrainerConfig(seq_len=8, micro_batch_size=2, tokens_per_step=64)
    assert (trainer.grad_accum(), trainer.sequences_per_step) == (4, 8)


@pytest.mark.parametrize(
    ("tokens_per_step", "words"),
    [
        (5000, "trainer.tokens_per_step=5000 is not a multiple of micro_batch_size * seq_len = "
               "16 * 256 = 4096; nearest are 4096 and 8192"),
        (4095, "trainer.tokens_per_step=4095 is not a multiple of micro_batch_size * seq_len = "
               "16 * 256 = 4096; nearest is 4096"),
    ],
)  # fmt: skip
def test_a_step_that_does_not_divide_is_refused_with_the_nearest(
    tokens_per_step: int, words: str
) -> None:
    with pytest.raises(UserError) as error:
        TrainerConfig(tokens_per_step=tokens_per_step)
    assert str(error.value) == words


@pytest.mark.parametrize(
    "name",
    ["seq_len", "micro_batch_size", "tokens_per_step", "max_steps", "eval_every", "log_every",
     "save_every", "keep_checkpoints"],
)  # fmt: skip
def test_a_number_of_something_is_at_least_one(name: str) -> None:
    with pytest.raises(UserError, match=rf"^trainer\.{name}=0 must be at least 1$"):
        TrainerConfig(**{name: 0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeed": 3}, "seeed is not a field; did you mean seed?"),
        ({"trainer": {"max_stepz": 3}}, "trainer.max_stepz is not a field; did you mean "
                                        "trainer.max_steps?"),
        ({"model": {"name": "gpt", "banana": 3}}, "model.banana is not a field\n  fields: "
                                                 "model.bias, "),
        ({"callback": {"sample": {"name": "sample", "prompt": ["a"]}}},
         "callback.sample.prompt is not a field; did you mean callback.sample.prompts?"),
        ({"model": {"name": "gtp"}}, "no model is registered as 'gtp'; did you mean gpt?"),
        ({"model": {"n_layer": 3}}, "model={'n_layer': 3} names no component; type model=NAME"),
        ({"model": None}, "model=null names no component; type model=NAME"),
        ({"callback": ["sample"]}, "callback=['sample'] must hold components by name"),
        ({"trainer": 5}, "trainer=5 must hold fields, such as trainer.seq_len="),
        ({"seed": "x"}, "seed=x is of the wrong type: the field takes a whole number"),
        ({"seed": 1.5}, "seed=1.5 is of the wrong type: the field takes a whole number"),
        ({"seed": "٣"}, "seed=٣ has other digits than 0 to 9; type seed=3"),
        ({"optimizer": {"name": "adamw", "lr": "٣"}}, "optimizer.lr=٣ has other digits than "
                                                     "0 to 9; type optimizer.lr=3"),
        ({"seed": True}, "seed=true is of the wrong type: the field takes a whole number"),
        ({"seed": None}, "seed=null is of the wrong type: the field takes a whole number"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"trainer": {"max_steps": "abc"}}, "trainer.max_steps=abc is of the wrong type: the field "
                                            "takes a whole number or null"),
        ({"trainer": {"grad_clip": [1]}}, "trainer.grad_clip=[1] is of the wrong type: the field "
                                          "takes a number"),
        ({"trainer": {"grad_clip": float("inf")}}, "trainer.grad_clip=inf must be finite"),
        ({"trainer": {"grad_clip": float("nan")}}, "trainer.grad_clip=nan must be at least 0"),
        ({"callback": {"sample": {"name": "sample", "prompts": "hello"}}},
         "callback.sample.prompts=hello is of the wrong type: the field takes a list of texts, "
         "such as [a,b]"),
        ({"device": {"type": "gpu"}}, "device.type=gpu is not a choice; did you mean "
                                      "device.type=cuda?\n  choices: auto, cpu, cuda, mps"),
        ({"dataset": {"name": "text", "window": "documents"}},
         "dataset.window=documents is not a choice; did you mean dataset.window=document?"),
        ({"dataset": {"name": "text"}}, None),
        ({"dataset": {"name": "text", "path": "???"}}, "dataset.path is missing; type "
                                                       "dataset.path=..."),
        ({"name": ""}, "name: '' must be one line of 1 to 128 characters; type name=TEXT"),
        ({"name": "a\nb"}, "name: 'a\\nb' must be one line"),
        ({"tags": ["a", "x" * 65]}, "tags: 'x"),
        ({"tags": ["a", "a"]}, "tags=[a,a] has a tag twice; type each once"),
        ({"seed": "${nothing}"}, "seed: Interpolation key 'nothing' not found"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_with_the_rule(
    changes: dict[str, Any], words: str | None
) -> None:
    if words is None:
        # a field that is left out takes its default, and MISSING is one that nothing may use
        assert resolve(**changes).dataset.path == "???"  # type: ignore[attr-defined]
        return
    with pytest.raises(UserError) as error:
        resolve(**changes)
    assert str(error.value).startswith(words)


@dataclass
class OwnModel(GPTConfig):
    name: str = "own"
    masks_documents: ClassVar[bool] = False


def test_a_model_that_cannot_keep_documents_apart_is_not_asked_to() -> None:
    cfg = resolve(dataset=MINIMAL["dataset"] | {"mask_documents": True})
    with pytest.raises(UserError) as error:
        replace(cfg, model=OwnModel())
    assert str(error.value) == (
        "dataset.mask_documents=true needs a model that can keep documents apart, and own cannot; "
        "type dataset.mask_documents=false"
    )


def test_a_choice_that_is_not_made_is_named() -> None:
    with pytest.raises(UserError, match=r"^schedule is not chosen; type schedule=NAME$"):
        config.resolve({k: v for k, v in MINIMAL.items() if k != "schedule"}, RunConfig)


def test_a_prepare_config_holds_only_what_determines_the_data() -> None:
    data = {key: MINIMAL[key] for key in ("dataset", "tokenizer")}
    assert config.resolve(data, PrepareConfig).tokenizer.name == "char"
    with pytest.raises(UserError, match=r"^seed is not a field"):
        config.resolve(data | {"seed": 1}, PrepareConfig)


def test_all_loggers_and_callbacks_together_load_back_equal(tmp_path: Path) -> None:
    named = ["name=base", "tags=[a,b]", "notes='why, and: how'"]
    typed = ["logger=[wandb,tensorboard]", "callback=[sample,early_stop]", "trainer.max_time=90"]
    cfg = compose("train", [*TEXT, *typed, *named, "logger.wandb.tags=[a,b]", "optimizer.lr=3e-4"])
    assert [*cfg.logger] == ["wandb", "tensorboard"]
    config.save(cfg, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == cfg


awkward = st.text(st.sampled_from("${}\\'\"a:#,\n\u2028é😀 -?")) | st.text(
    st.characters(exclude_categories=["Cs"])
)


@given(prompts=st.lists(awkward, min_size=1))
@example(prompts=["${x}", "\\${x}", "\\\\${", "${5", "$", "\x85\u2028\n", "???", "null", "\\"])
@settings(max_examples=20)
def test_any_text_survives_being_saved(
    prompts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cfg = replace(resolve(), callback={"sample": SampleConfig(prompts=prompts)})
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    config.save(cfg, path)
    assert config.load(path) == cfg


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_byte_order_mark_is_no_part_of_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"seed": 3}', encoding="utf-8-sig")
    assert config.read(tmp_path / name) == {"seed": 3}


def test_small_numbers_in_yaml_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-3\nn: 5_000\n")
    assert config.read(path) == {"lr": 0.001, "n": 5000}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '{"seed": 1,', "is not JSON that can be read: Expecting property name"),
        ("a.yaml", "seed: [1", "is not YAML that can be read: while parsing a flow sequence"),
        ("a.yaml", "prompt: ${5", "is not YAML that can be read: "),
        ("a.yaml", "x: !!python/object:os.system {}", "is not YAML that can be read: could not"),
        ("a.yaml", "3", "is not YAML that can be read: "),
        ("a.json", "[1]", "must hold a mapping of fields, such as 'seed: 1'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path} {words}')}"):
        config.read(path)


def test_a_smaller_micro_batch_is_advised_at_once_however_large_the_typed_one_is():
    def advice(size: int, sequences: int) -> str:
        trainer = TrainerConfig(seq_len=4, micro_batch_size=1, tokens_per_step=4 * sequences)
        trainer.micro_batch_size = size
        began = time.perf_counter()
        with pytest.raises(UserError) as error:
            trainer.grad_accum(ranks=2)
        assert time.perf_counter() - began < 1
        return str(error.value).rpartition("; ")[2]

    assert advice(10**12, 2 * 3000) == "trainer.micro_batch_size=3000 changes nothing else"
    assert advice(4, 2 * 6) == "trainer.micro_batch_size=3 changes nothing else"
    assert advice(4, 3) == "nearest is 32"
