"""From settings to configs: precedence of files and command line, sweeps, quoting, choices."""

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tinygpt import config, console, registry
from tinygpt.config import HORIZONS, PrepareConfig, RunConfig, choices, compose, mistakes, overrides
from tinygpt.config.nested import flatten
from tinygpt.errors import UserError

TEXT = ["dataset=text", "dataset.path=stories.txt"]


def run_config(*typed: str, **options: Any) -> RunConfig:
    """The config of one run, from what is typed."""
    (job,) = overrides.jobs([*TEXT, *typed], multirun=False)
    cfg: RunConfig = compose.compose("train", job, **options)
    return cfg


def mistake(*typed: str, entry: str = "train", multirun: bool = False, **options: Any) -> str:
    """What is said of a mistake."""
    with pytest.raises(UserError) as error:
        compose.compose_all(entry, overrides.jobs(typed, multirun=multirun, entry=entry), **options)
    return str(error.value)


def written(path: Path, content: Any) -> str:
    """`config_file=` with the content."""
    dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
    path.write_text(dump(content))
    return f"config_file={path}"


# Files and the command line


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml"])
@pytest.mark.parametrize(
    "content",
    [
        {"model": "nano", "optimizer": {"lr": 3e-4}, "callback": ["early_stop"], "seed": 7},
        {"model": "nano", "optimizer.lr": 3e-4, "callback": "early_stop", "seed": 7},
        {"model": {"name": "gpt", "n_layer": 4, "n_head": 4, "d_model": 64},
         "optimizer": {"name": "muon", "lr": 3e-4}, "callback": {"early_stop": {}}, "seed": 7},
    ],
)  # fmt: skip
def test_a_file_says_the_same_as_the_command_line(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    typed = run_config("model=nano", "optimizer.lr=3e-4", "callback=early_stop", "seed=7")
    assert run_config(written(tmp_path / name, content)) == typed


def test_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{\n\t"seed": 7\n}')
    assert run_config(f"config_file={path}").seed == 7


def test_a_runs_own_config_is_a_config_file(tmp_path: Path) -> None:
    cfg = run_config(
        "model=nano", "model.dropout=0.1", "tokenizer=bpe", "schedule=wsd", "trainer.max_time=90",
        "logger=wandb", "logger.wandb.tags=[a,b]", "callback=[sample,early_stop]", "device=cpu",
        r"callback.sample.prompts=['a, \'b\'','\${x}','']", "seed=3",
    )  # fmt: skip
    assert config.to_dict(cfg)["callback"]["sample"]["prompts"] == ["a, 'b'", "${x}", ""]
    config.save(cfg, tmp_path / "config.yaml")
    (job,) = overrides.jobs([f"config_file={tmp_path / 'config.yaml'}"], multirun=False)
    assert compose.compose("train", job) == cfg


def test_what_is_typed_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.json", {"seed": 7, "optimizer": {"lr": 3e-4, "beta2": 0.9}})
    cfg = run_config("optimizer.lr=0.1", file, "seed=8")
    assert (cfg.seed, cfg.optimizer.lr, cfg.optimizer.beta2) == (8, 0.1, 0.9)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["trainer.max_steps=1e3"], 1000),
        (['trainer.max_steps="5e6"'], 5_000_000),
        (["trainer.max_steps=1000.0"], 1000),
        (["seed=1e16"], 10**16),
        (["dataset=tiny_stories", "dataset.max_documents=1e3"], 1000),
        (["tokenizer=bpe", "tokenizer.vocab_size=1e3"], 1000),
        (["callback=early_stop", "callback.early_stop.patience=1e1"], 10),
    ],
)
def test_a_whole_number_may_have_an_exponent(typed: list[str], value: int) -> None:
    node: Any = config.to_dict(run_config(*typed))
    for part in typed[-1].partition("=")[0].split("."):
        node = node[part]
    assert node == value
    assert isinstance(node, int)


def test_a_whole_number_with_an_exponent_may_be_in_a_file_or_a_list(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", {"trainer": {"max_steps": 1e3}})
    assert run_config(file, "seed=1e1").trainer.max_steps == 1000
    assert compose.compose("data", ["candidates=[1e3,2e3]"]).candidates == [1000, 2000]


def test_what_is_no_whole_number_is_refused_with_its_field(my_conf: Path) -> None:
    wrong = "is of the wrong type: the field takes a whole number"
    assert mistake("seed=1.5", "trainer.max_steps=1e3") == f"seed=1.5 {wrong}"
    assert mistake("trainer.max_steps=1e-3") == f"trainer.max_steps=0.001 {wrong} or null"
    assert mistake("trainer.max_steps=-1e3") == "trainer.max_steps=-1000 must be at least 1"
    (my_conf / "experiment").mkdir(exist_ok=True)
    bundle = my_conf / "experiment" / "half.yaml"
    bundle.write_text("# @package _global_\ntrainer:\n  max_steps: 0.5\n")
    said = mistake("experiment=half", config_dir=my_conf)
    assert said.startswith("experiment/half.yaml: trainer.max_steps: Value '0.5' of type 'float'")


def test_of_two_typed_values_the_last_wins() -> None:
    cfg = run_config("seed=1", "model=small", "optimizer.lr=0.1", "seed=2", "model=nano")
    assert cfg == run_config("optimizer.lr=0.1", "seed=2", "model=nano")


def test_a_typed_choice_replaces_all_that_the_file_says_of_it(tmp_path: Path) -> None:
    config.save(run_config("model=nano", "model.dropout=0.1"), tmp_path / "config.yaml")
    file = f"config_file={tmp_path / 'config.yaml'}"
    assert run_config(file).model == run_config("model=nano", "model.dropout=0.1").model
    assert run_config(file, "model=small").model == run_config("model=small").model
    assert [*run_config(file, "callback=early_stop").callback] == ["early_stop"]
    assert run_config(file, "schedule=constant").schedule.name == "constant"


@pytest.mark.parametrize("typed", ["max_tokens=2M", "max_steps=5", "max_epochs=2", "max_time=60"])
def test_a_typed_horizon_turns_off_that_of_the_file(typed: str, tmp_path: Path) -> None:
    name = typed.partition("=")[0]
    other = "max_steps" if name == "max_tokens" else "max_tokens"
    file = written(tmp_path / "mine.json", {"trainer": {other: 7, "eval_every": 3}})
    trainer = run_config(file, f"trainer.{typed}").trainer
    assert trainer.eval_every == 3
    assert getattr(trainer, name) is not None
    assert [h for h in HORIZONS if getattr(trainer, h) is not None] == [name]


def test_turning_off_one_of_two_horizons_of_a_file_leaves_the_other(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.json", {"trainer": {"max_steps": 7, "max_tokens": "5M"}})
    assert mistake(*TEXT, file).endswith("turn one off with trainer.max_tokens=null")
    trainer = run_config(file, "trainer.max_tokens=null").trainer
    assert (trainer.max_steps, trainer.max_tokens) == (7, None)


def test_a_field_of_a_file_that_a_typed_choice_replaces_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.log_to_console()
    file = written(tmp_path / "mine.json", {"model": {"n_layer": 1}, "optimizer": {"lr": 0.1}})
    assert run_config(file, "model=nano").model == run_config("model=nano").model
    assert capsys.readouterr().err == (
        "warning: model.n_layer=1 of config_file= is left out, because model=nano replaces all "
        "that the file says of model; to keep it type it too\n"
    )
    run_config(file, "model=nano", "model.n_layer=1")
    config.save(run_config("model=nano"), tmp_path / "config.yaml")
    run_config(f"config_file={tmp_path / 'config.yaml'}", "model=small")  # a choice for a choice
    assert capsys.readouterr().err == ""


def test_a_component_of_a_file_is_found_among_choices_of_ones_own(my_conf: Path) -> None:
    text = "# /schema/model/gpt@ is what this was\ndefaults: [mingru_tiny, _self_]\n"
    (my_conf / "model" / "a.yaml").write_text(text)
    assert choices.choice_of("model", "gpt", my_conf) == "tiny"
    assert choices.choice_of("model", "mingru", my_conf) == "a"  # the first of its class
    assert choices.choice_of("schedule", "wsd", my_conf) == "wsd"
    assert choices.choice_of("schedule", "nowhere", my_conf) == "nowhere"


@pytest.fixture
def my_conf(tmp_path: Path) -> Path:
    """A folder with choices of a user's own."""
    folder = tmp_path / "mine"
    for name, text in {
        "model/wide.yaml": "defaults: [/schema/model/gpt@_here_, _self_]\nd_model: 96\n",
        "model/typo.yaml": "defaults: [/schema/model/gpt@_here_, _self_]\nd_modell: 96\n",
        "model/untyped.yaml": "d_model: 96\n",
        "model/broken.yaml": "defaults: [/schema\n",
        "experiment/tall.yaml": "# @package _global_\n"
        "defaults: [{override /model: wide}]\ntrainer: {max_steps: 9, eval_every: 3}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_choices_are_found_in_a_folder_of_ones_own(
    my_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(my_conf.parent)
    cfg = run_config("model=wide", "model.n_layer=2", config_dir=Path("mine"))
    assert (cfg.model.d_model, cfg.model.n_layer) == (96, 2)  # type: ignore[attr-defined]
    assert "wide" in mistake(*TEXT, "model=wid", config_dir=my_conf).splitlines()[0]


def test_a_mistake_in_such_a_choice_names_its_file(my_conf: Path) -> None:
    def said(name: str) -> str:
        return mistake(*TEXT, f"model={name}", config_dir=my_conf)

    assert said("typo") == "model/typo.yaml: Key 'd_modell' not in 'GPTConfig'"
    assert said("untyped") == (
        "model/untyped.yaml: Key 'd_model' not in 'ModelConfig'; begin with\n"
        "  defaults: [/schema/model/NAME@_here_, _self_]"
    )
    assert said("broken").startswith("while parsing a flow sequence in ")
    assert f"{my_conf / 'model' / 'broken.yaml'}" in said("broken")


def test_a_default_that_does_not_exist_is_named_with_the_choice_that_has_it(my_conf: Path) -> None:
    (my_conf / "model" / "lost.yaml").write_text("defaults: [nowhere, _self_]\n")
    said = mistake(*TEXT, "model=lost", config_dir=my_conf)
    assert said == "In 'model/lost': Could not load 'model/nowhere'."


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_experiment_is_a_base_for_what_is_typed(plus: str, my_conf: Path) -> None:
    def composed(*typed: str) -> RunConfig:
        return run_config(f"{plus}experiment=tall", *typed, config_dir=my_conf)

    assert composed().model.d_model == 96  # type: ignore[attr-defined]
    assert (composed().trainer.max_steps, composed().trainer.eval_every) == (9, 3)
    trainer = composed("trainer.max_epochs=2").trainer
    assert (trainer.max_epochs, trainer.max_steps, trainer.eval_every) == (2, None, 3)
    assert composed("model=nano").model.d_model == 64  # type: ignore[attr-defined]


def test_a_files_horizon_turns_off_that_of_an_experiment(my_conf: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", {"experiment": "tall", "trainer": {"max_epochs": 2}})
    trainer = run_config(file, config_dir=my_conf).trainer
    assert (trainer.max_epochs, trainer.max_steps) == (2, None)


def test_prepare_takes_its_part_of_a_runs_config(tmp_path: Path) -> None:
    config.save(run_config("tokenizer=bpe", "tokenizer.vocab_size=300"), tmp_path / "config.yaml")
    file = f"config_file={tmp_path / 'config.yaml'}"
    (job,) = overrides.jobs([file], multirun=False, entry="prepare")
    cfg = compose.compose("prepare", job)
    assert type(cfg) is PrepareConfig
    assert config.to_dict(cfg)["dataset"]["path"] == "stories.txt"
    assert config.to_dict(cfg)["tokenizer"]["vocab_size"] == 300


def test_prepare_leaves_out_how_a_runs_config_reads_the_tokens(tmp_path: Path) -> None:
    config.save(run_config("dataset.window=document"), tmp_path / "config.yaml")
    (job,) = overrides.jobs(
        [f"config_file={tmp_path / 'config.yaml'}"], multirun=False, entry="prepare"
    )
    assert compose.compose("prepare", job).dataset.window == "packed"


@pytest.mark.parametrize("typed", ["dataset.window=document", "dataset.mask_documents=true"])
@pytest.mark.parametrize("entry", ["prepare", "data"])
def test_what_only_training_reads_is_refused_by_what_makes_the_tokens(
    typed: str, entry: str
) -> None:
    with pytest.raises(UserError) as error:
        overrides.jobs([*TEXT, typed], multirun=False, entry=entry)
    assert str(error.value) == (
        f"{typed.partition('=')[0]} does not change the prepared data, so {entry} does not take "
        "it; use it with python -m tinygpt.train"
    )


def test_a_choice_that_lacks_a_field_of_the_experiment_is_told_what_has_it() -> None:
    assert mistake("experiment=demo", "optimizer=adamw") == (
        "experiment/demo.yaml sets optimizer.adamw_lr, a field of optimizer=muon; type "
        "optimizer=muon, or copy the file to a folder of your own (--config-dir) and take that "
        "line out"
    )


@pytest.mark.parametrize("typed", ["model=small", "trainer.max_steps=3", "experiment=x"])
def test_prepare_refuses_what_does_not_change_the_data(typed: str) -> None:
    assert mistake(*TEXT, typed, entry="prepare") == (
        f"{typed.partition('=')[0]} does not change the prepared data, so prepare does not take "
        "it; use it with python -m tinygpt.train"
    )


# Texts


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    st.sampled_from("\\'\"${}[](),:=~+#@! \n\tabé1e5")
)
words = st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True).filter(
    lambda word: word not in ("null", "true", "false", "nan", "inf")
)
values = st.recursive(
    texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@given(value=values)
@example(value="\\")
@example(value="it\\'s")
@example(value="ends with '")
@example(value=["", " ", "null", "1e5", "a,b", "choice(a,b)", "${x}"])
@settings(max_examples=80)
def test_a_quoted_value_is_read_back_as_it_was(value: Any) -> None:
    text = f"key={overrides.quoted(value)}"
    (override,) = OverridesParser.create().parse_overrides([text])
    assert not override.is_sweep_override()
    assert override.value() == value
    assert type(override.value()) is type(value)


@pytest.mark.parametrize(
    "path", ["Märchen.txt", "a=b.txt", "my (1).txt", 'say "it\'s".txt', "a b;c"]
)
def test_a_path_needs_no_quotes(path: str) -> None:
    (job,) = overrides.jobs(["dataset=text", f"dataset.path={path}"], multirun=False)
    assert compose.compose("train", job).dataset.path == path


@pytest.mark.parametrize("path", ["[a", "{a", "a]"])
def test_a_text_that_looks_like_a_list_needs_quotes_which_the_error_shows(path: str) -> None:
    words = mistake("dataset=text", f"dataset.path={path}")
    assert words == (
        f"'dataset.path={path}' cannot be read; for a text with brackets or commas in it type\n"
        f"  \"dataset.path='{path}'\""
    )
    advice = words.splitlines()[1].strip().strip('"')
    (job,) = overrides.jobs(["dataset=text", advice], multirun=False)
    assert compose.compose("train", job).dataset.path == path


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("[介绍一下你。]", ["介绍一下你。"]),
        ("[Hello!]", ["Hello!"]),
        ("[It's, don't]", ["It's", "don't"]),
        ("['a, b',It's,\"ü, ö\"]", ["a, b", "It's", "ü, ö"]),
        ("['it\\'s, ok', ü]", ["it's, ok", "ü"]),
        ("[Hello {name}!, x [y]! z]", ["Hello {name}!", "x [y]! z"]),
        ('[say "hi" to all]', ['say "hi" to all']),
    ],
)
def test_a_list_of_texts_needs_no_quotes(typed: str, prompts: list[str]) -> None:
    (override,) = overrides.parse([f"callback.sample.prompts={typed}"])
    assert override.value() == prompts


@pytest.mark.parametrize("typed", ["[Hi [x!]", "[a,,b!]", "[a, ,!]"])
def test_an_unreadable_list_is_reported_with_an_example(typed: str) -> None:
    words = mistake(*TEXT, f"callback.sample.prompts={typed}")
    (advice,) = shlex.split(words.splitlines()[1])
    assert run_config(advice).callback["sample"].prompts == [typed[1:-1]]  # type: ignore[attr-defined]


def test_an_element_that_ends_in_a_backslash_is_reported() -> None:
    assert mistake("seed=\\,}ü") == (
        "'seed=\\\\,}ü' cannot be read; type seed=VALUE without brackets"
    )


def test_a_sweep_over_paths_needs_no_quotes() -> None:
    typed = ["dataset=text", "dataset.path=größe.txt,b.txt,c (2).txt"]
    jobs = overrides.jobs(typed, multirun=True)
    paths = [overrides.parse(job)[1].value() for job in jobs]
    assert paths == ["größe.txt", "b.txt", "c (2).txt"]


# Sweeps


def test_a_sweep_has_all_combinations_in_order() -> None:
    jobs = overrides.jobs(["model=nano,tiny", "seed=range(0,3)", "device=cpu"], multirun=True)
    assert jobs == [
        [f"model={model}", f"seed={seed}", "device=cpu"]
        for model, seed in itertools.product(("nano", "tiny"), (0, 1, 2))
    ]


def test_a_sweep_over_lists_and_quoted_texts_keeps_them_whole() -> None:
    typed = [*TEXT, "callback.sample.prompts=['a, b'],[c,'d\\'s']", "logger=[],[wandb]"]
    configs = compose.compose_all("train", overrides.jobs(typed, multirun=True))
    assert [(cfg.callback["sample"].prompts, [*cfg.logger]) for cfg in configs] == [
        (["a, b"], []), (["a, b"], ["wandb"]), (["c", "d's"], []), (["c", "d's"], ["wandb"]),
    ]  # fmt: skip


def test_a_typed_horizon_that_is_swept_turns_off_the_files(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.json", {"trainer": {"max_tokens": "5M"}})
    jobs = overrides.jobs([*TEXT, file, "trainer.max_steps=5,6"], multirun=True)
    assert [cfg.trainer.max_steps for cfg in compose.compose_all("train", jobs)] == [5, 6]


def test_many_runs_need_the_flag() -> None:
    assert mistake("callback=sample,early_stop").endswith(
        "for several at once type callback=[sample,early_stop]"
    )


def test_a_sweep_lists_its_values() -> None:
    assert mistake("seed=interval(0,3)", multirun=True) == (
        "seed=interval(0,3) is a rule for values, and a grid tries listed ones; "
        "type seed=A,B,C, or search=random, or search=optuna"
    )


def test_a_pattern_stands_for_the_choices_that_it_matches(my_conf: Path) -> None:
    def swept(pattern: str, **options: Any) -> list[list[str]]:
        return overrides.jobs([f"model={pattern}"], multirun=True, **options)

    assert swept("glob(gpt2_*)") == [["model=gpt2_large"], ["model=gpt2_medium"], ["model=gpt2_xl"]]
    assert swept("glob([nano,wi*])", config_dir=my_conf) == [["model=nano"], ["model=wide"]]
    assert overrides.jobs(["model=glob(na*)"], multirun=False) == [["model=nano"]]


def test_a_tilde_takes_away_what_a_run_can_do_without() -> None:
    cfg = run_config("logger=wandb", "~logger", "~callback")
    assert (cfg.logger, cfg.callback) == ({}, {})


def test_a_hydra_block_in_a_choice_is_refused(my_conf: Path) -> None:
    path = my_conf / "experiment" / "swept.yaml"
    path.write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '1,2'}}}\n")
    assert mistake(*TEXT, "experiment=swept", multirun=True, config_dir=my_conf).startswith(
        f"the hydra: block of {path} would be ignored: runs are not launched by Hydra; "
    )


def test_a_mistake_in_a_later_job_is_found_before_the_first_begins() -> None:
    words = mistake(*TEXT, "model=nano,smal", multirun=True)
    assert words.startswith("model=smal is not a choice; did you mean model=small?")
    assert mistake(*TEXT, "seed=0,1", "model.n_head=4,5", multirun=True).startswith(
        "model.d_model=128 is not a multiple of model.n_head=5"
    )


# Names


def test_every_group_lists_its_choices() -> None:
    registry.import_all()
    groups = choices.groups("train")
    assert [*groups] == [*registry.KINDS, "trainer", "device", "experiment"]
    assert groups["tokenizer"] == ["bpe", "byte", "char", "hf"]
    assert groups["device"] == ["auto", "cpu", "cuda", "mps"]
    for group, options in groups.items():
        assert options == sorted(path.stem for path in (choices.CONF / group).glob("*.yaml"))
    assert [*choices.groups("prepare")] == ["dataset", "tokenizer"]


def test_the_default_of_each_group_is_one_of_its_choices() -> None:
    groups = choices.groups("train")
    for group, chosen in choices.default_choices("train").items():
        if group != "experiment":
            assert {*chosen} <= {*groups[group]}


def test_the_names_of_other_trainers_lead_to_ours() -> None:
    assert mistake(*TEXT, "batch_size=4") == (
        "batch_size is not a field of tinygpt; here it is trainer.micro_batch_size="
    )
    ours = flatten(config.to_dict(compose.compose("train", [])))
    assert {*mistakes.PEERS_NAMES.values()} - {"resume", "tokenizer"} <= {*ours}
    assert not {*mistakes.PEERS_NAMES} & {*ours}


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_plus_adds_no_field(plus: str) -> None:
    assert run_config(f"{plus}seed=3", f"{plus}model=nano").seed == 3
    assert mistake(*TEXT, "optimizer=adamw", f"{plus}optimizer.lrr=1").startswith(
        "optimizer.lrr is not a field; did you mean optimizer.lr?\n  fields: optimizer.base_width, "
    )
    assert mistake(*TEXT, f"{plus}foo.bar=1").startswith("foo.bar is not a field\n  top level: ")


# Secrets

ENVIRONMENT = (
    "${oc.env:SECRET} would save a value of the environment in the config; type the value itself, "
    'such as FIELD="$SECRET"'
)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment that no config may hold."""
    monkeypatch.setenv("SECRET", "hunter2")


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "a ${ oc.env : SECRET, x}", "${oc.${cache_dir}:SECRET}",
             "${oc.decode:${oc.env:SECRET}}"],
)  # fmt: skip
@pytest.mark.usefixtures("secret")
def test_the_environment_is_read_by_no_file_and_no_setting(text: str, tmp_path: Path) -> None:
    files = {"a.json": {"output_dir": text, "cache_dir": "env"}, "a.yaml": {"output_dir": text}}
    for name, content in files.items():
        said = mistake(*TEXT, "cache_dir=env", written(tmp_path / name, content))
        assert said == f"output_dir: {ENVIRONMENT}"
    typed = mistake(*TEXT, "cache_dir=env", f"output_dir='{text}'")
    assert typed == f"output_dir: {ENVIRONMENT}"


@pytest.mark.usefixtures("secret")
def test_the_environment_is_not_read_by_choices_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    experiment = tmp_path / "experiment" / "theirs.yaml"
    for content, said in {
        "output_dir: ${oc.env:SECRET}": f"output_dir: {ENVIRONMENT}",
        "defaults: [{override /model: '${oc.env:SECRET}'}]": (
            "Error resolving interpolation '${oc.env:SECRET}', possible interpolation keys: "
        ),
    }.items():
        experiment.write_text(f"# @package _global_\n{content}\n")
        assert mistake(*TEXT, "experiment=theirs", config_dir=tmp_path).startswith(said)
    saved = tmp_path / "config.yaml"
    config.save(run_config(), saved)
    saved.write_text(saved.read_text().replace("\nseed: 0", "\nseed: ${oc.env:SECRET}"))
    with pytest.raises(UserError) as error:
        config.load(saved)
    assert str(error.value) == f"seed: {ENVIRONMENT}"
    assert OmegaConf.to_container(OmegaConf.create({"a": "${oc.env:SECRET}"}), resolve=True) == {
        "a": "hunter2"  # elsewhere OmegaConf is as it was
    }


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("https://user:hunter2@host/x", "https://***@host/x"),
        ("https://hunter2@host", "https://***@host"),
        ("https://u:p@hunter2@host", "https://***@host"),
        ("https://host/x?a=1&api_key=hunter2&b=2", "https://host/x?a=1&api_key=***&b=2"),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(typed: str, shown: str) -> None:
    assert mistake("dataset=hub", f"dataset.repo={typed}") == (
        f"dataset.repo={shown} has a password or token in it, and configs are saved as plain text; "
        "leave it out (HF_TOKEN and WANDB_API_KEY are read from the environment)"
    )
    for wrong in (["dataset=hub", f"repo={typed}"], [f"dataset=[{typed}"], [typed]):
        assert "hunter2" not in mistake(*wrong)
