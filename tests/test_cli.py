"""The command line: helpful errors, complete --help, choices from other packages."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

import tinygpt
from tests import processes
from tinygpt import config, registry, sample
from tinygpt.cli import main
from tinygpt.config import DeviceConfig, TrainerConfig, choices, compose, overrides
from tinygpt.records.folder import RunFolder

ROOT = Path(__file__).parents[1]
TEXT = "dataset=text dataset.path=stories.txt"
TRAIN_HELP = "\n  python -m tinygpt.train --help lists what there is"
TOP = (
    "cache_dir, callback, components, dataset, device, experiment, init_from, logger, model, name, "
    "notes, optimizer, output_dir, schedule, seed, tags, tokenizer, trainer, workers"
)
MODELS = ", ".join(sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml")))
ADAMW = "base_width, beta1, beta2, eps, lr, name, scaling, weight_decay"
TRAINER = (
    "ema, eval_bytes, eval_every, first_tokens_per_step, freeze, grad_clip, keep_checkpoints, "
    "log_every, lora_alpha, lora_rank, lora_targets, max_epochs, max_flops, "
    "max_steps, max_time, max_tokens, micro_batch_size, save_every, seq_len, tokens_per_step, "
    "tokens_warmup_ratio"
)


def full(prefix: str, names: str) -> str:
    """The names with their group in front."""
    return ", ".join(f"{prefix}.{name}" for name in names.split(", "))


# What is typed, and all that is said; `...` at the end stands for more of the same.
BAD_COMMANDS = {
    # flags
    "train --device cuda": "--device is not a flag; settings are typed without dashes: "
    f'device=cuda{TRAIN_HELP}',
    "train --config_file=mine.json": "--config_file=mine.json is not a flag; settings are typed "
    f"without dashes: config_file=mine.json{TRAIN_HELP}",
    "train --data_percentage 0.1": "--data_percentage is not a flag; settings are typed without "
    f"dashes: dataset.fraction=0.1{TRAIN_HELP}",
    "train --multi seed=1,2": f"--multi is not a flag; did you mean --multirun?{TRAIN_HELP}",
    "train --config-dir nowhere": "--config-dir nowhere is not a folder",
    "train -m -c job seed=1,2": "-c job prints the config of one run; type it without -m",
    # choices
    "train model=smal": f"model=smal is not a choice; did you mean model=small?\n"
    f"  choices: {MODELS}",
    "train model=null": f"model=null is not a choice\n  choices: {MODELS}",
    "train model={}": f"model={{}} is not a choice\n  choices: {MODELS}",
    "train model=[nano,tiny]": "model=[nano,tiny] is not a choice...",
    "train model=": f"model= is not a choice\n  choices: {MODELS}",
    "train trainer=nul": "trainer=nul is not a choice\n  choices: default",
    "train trainer=5": "trainer=5 is not a choice\n  choices: default",
    "train logger=wanb": "logger=wanb is not a choice; did you mean logger=wandb?\n"
    "  choices: tensorboard, wandb\n  several are typed as logger=[A,B], none as logger=[]",
    "train callback=[sample,earlystop]": "callback=earlystop is not a choice; did you mean "
    "callback=early_stop?\n  choices: early_stop, evaluate, sample\n"
    "  several are typed as callback=[A,B], none as callback=[]",
    "train callback=null": "callback=null is not a choice...",
    "train device=gpu": "device=gpu is not a choice; did you mean device=cuda?\n"
    "  choices: auto, cpu, cuda, mps",
    "train experiment=nope": "experiment=nope is not a choice...",
    "train model.name=gtp": "no model is registered as 'gtp'; did you mean gpt?\n"
    "  registered: gpt, mingru",
    # fields
    "train modle=small": f"modle is not a field; did you mean model?\n  top level: {TOP}",
    f"train modle=small {TEXT}": f"modle is not a field; did you mean model?\n  top level: {TOP}",
    "train optimizer=adamw optimizer.lrr=1": "optimizer.lrr is not a field; did you mean "
    f"optimizer.lr?\n  fields: {full('optimizer', ADAMW)}",
    "train optimizer=adamw +optimizer.lrr=1": "optimizer.lrr is not a field; did you mean "
    f"optimizer.lr?\n  fields: {full('optimizer', ADAMW)}",
    "train ++trainer.foo=3": "trainer.foo is not a field\n"
    f"  fields: {full('trainer', TRAINER)}",
    "train lr=1e-3": f"lr is not a field; did you mean optimizer.lr?\n  top level: {TOP}",
    "train batch_size=4": "batch_size is not a field of tinygpt; here it is "
    "trainer.micro_batch_size=",
    "train tokenizer=char tokenizer.vocab_size=10": "tokenizer.vocab_size is not a field\n"
    "  fields: tokenizer.name, tokenizer.path\n  it belongs to tokenizer=bpe",
    "train logger.wandb.mode=offline": "logger.wandb.mode: logger wandb is not chosen; "
    "type logger=wandb too",
    "train callback.early_stop.patience=3": "callback.early_stop.patience: callback early_stop is "
    "not chosen; type callback=[sample,early_stop] too",
    "train trainer.max_steps.foo=1": "trainer.max_steps.foo is not a field: trainer.max_steps is "
    "a single value, type trainer.max_steps=VALUE",
    # values
    "train trainer.max_steps=abc": "trainer.max_steps=abc is of the wrong type: the field takes a "
    "whole number or null",
    "train seed=x": "seed=x is of the wrong type: the field takes a whole number",
    "train seed=-1": "seed=-1 must be at least 0",
    "train seed=null": "seed=null is of the wrong type: the field takes a whole number",
    "train trainer.max_time=soon": "trainer.max_time=soon is not a duration; type 90s, 15m or "
    "1h30m",
    "train trainer.max_tokens=lots": "trainer.max_tokens=lots is not a count; type 5000000, "
    "5_000_000 or 5M",
    "train optimizer.lr=-1": "optimizer.lr=-1.0 must be above 0",
    "train optimizer.lr=inf": "optimizer.lr=inf must be finite",
    "train schedule.warmup_ratio=2": "schedule.warmup_ratio=2.0 must be below 1",
    "train tokenizer=bpe tokenizer.vocab_size=10": "tokenizer.vocab_size=10 must be at least 258",
    "train callback.sample.prompts=hello": "callback.sample.prompts=hello is of the wrong type: "
    "the field takes a list of texts, such as [a,b] or null",
    "train trainer.tokens_per_step=5000": "trainer.tokens_per_step=5000 is not a multiple of "
    "micro_batch_size * seq_len = 16 * 256 = 4096; nearest are 4096 and 8192",
    "train trainer.max_steps=10 trainer.max_tokens=5M": "trainer.max_tokens=5M and "
    "trainer.max_steps=10 are both set, but a run has one length; "
    "turn one off with trainer.max_tokens=null",
    "train model.n_head=5": "model.d_model=128 is not a multiple of model.n_head=5; nearest are "
    "125 and 130",
    "train dataset=text": "dataset.path is missing; type dataset.path=...",
    "train seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    # what is not a setting at all
    "train foo": "'foo' is not understood; settings are typed as key=value",
    "train =3": "'=3' is not understood; settings are typed as key=value",
    "train ~seed": "~seed is not understood; a field stays, type seed=VALUE",
    "train model=[small": "'model=[small' cannot be read; type model=NAME",
    "train callback=[sample": "'callback=[sample' cannot be read; type callback=NAME, "
    "callback=[NAME,NAME] or callback=[]",
    "train optimizer.lr=[1": "'optimizer.lr=[1' cannot be read; type optimizer.lr=VALUE without "
    "brackets",
    "train dataset=text dataset.path=[a": "'dataset.path=[a' cannot be read; for a text with "
    "brackets or commas in it type\n  \"dataset.path='[a'\"",
    "train hydra.run.dir=here": "hydra.run.dir=here would be ignored: runs are not launched by "
    "Hydra; output_dir= says where they go, --config-dir where to look for choices, and -m with "
    "values such as seed=0,1,2 sweeps them",
    "train ~model": "~model is not understood; a run needs one, type model=NAME",
    "train ~experiment": "~experiment is not understood; leave experiment= out, or type "
    "experiment=NAME",
    "train ~callback.sample": "~callback.sample is not understood; list those that stay, or none: "
    "callback=[]",
    "train init_from=gpt2": "init_from=gpt2 is not a folder here, and weights are not downloaded; "
    "get them with\n  hf download openai-community/gpt2 --include '*.json' '*.safetensors' "
    "--local-dir gpt2\nand type init_from=gpt2",
    "train init_from=scratch": "init_from=scratch: a run begins with random weights if it is left "
    "out",
    "train --init_from=gpt2": "--init_from=gpt2 is not a flag; settings are typed without dashes: "
    "init_from=gpt2\n  python -m tinygpt.train --help lists what there is",
    "train trainer.lora_rank=8": "trainer.lora_rank=8 adapts trained weights, and this run begins "
    "with random ones; type init_from=RUN too",
    "train trainer.lora_alpha=8": "trainer.lora_alpha=8 has no effect without trainer.lora_rank; "
    "type trainer.lora_rank=8 too",
    # components
    "train components=[./my_rmsprop.py]": "components=./my_rmsprop.py is not the name of a module; "
    "type it as Python imports it, such as my_rmsprop for my_rmsprop.py, or my_package.rmsprop",
    "train components=[nowhere_it]": "components=nowhere_it: Python finds no module nowhere_it; "
    "type the command in the folder of the module, or add that folder to PYTHONPATH",
    "sample components=nowhere.it": "components=nowhere.it: Python finds no module nowhere; "
    "type the command in the folder of the module, or add that folder to PYTHONPATH",
    "train components=[broken_module]": "components=broken_module cannot be imported: "
    "ZeroDivisionError: division by zero (...",
    "train config_file=theirs.json": "no optimizer is registered as 'theirs'; its module is not "
    "imported; if you trust broken_module, type components=[broken_module], or set "
    "TINYGPT_COMPONENTS=broken_module",
    # flags of Hydra
    "train --cfg all": "--cfg all is not there; type --cfg job for the config of a run",
    "train --resolve": "--resolve is about the config that is printed; type --cfg job with it",
    "train -cn mine": "-cn is a flag of Hydra that is not here; type config_file=FILE for settings "
    "from a file, experiment=NAME for a bundle of them",
    "train --config-path=conf": "--config-path=conf is a flag of Hydra that is not here; type "
    "--config-dir FOLDER to add choices",
    "train --info": "--info is a flag of Hydra that is not here; type --help for the choices and "
    "fields, -c job for the config of a run",
    "train -sc install=bash": "-sc is a flag of Hydra that is not here; type --help for the "
    "choices and fields, -c job for the config of a run",
    "train experiment=[smoke,demo]": "experiment=[smoke,demo] is not a choice...",
    "train callback=[sample,sample]": "callback=[sample,sample] lists a choice twice; "
    "type callback=[sample]",
    "train config_file=hydra.json": "hydra.sweeper.params.seed of config_file= would be ignored: "
    "runs are not launched by Hydra; output_dir= says where they go, --config-dir where to look "
    "for choices, and -m with values such as seed=0,1,2 sweeps them",
    # sweeps
    "train optimizer.lr=1e-3,1e-2": "optimizer.lr=1e-3,1e-2 lists several values; for a run of "
    "each type -m before it",
    "train optimizer.lr=0,001": "optimizer.lr=0,001 lists several values; for a run of each type "
    "-m before it, for a decimal point type optimizer.lr=0.001",
    "train trainer.max_tokens=5,000,000": "trainer.max_tokens=5,000,000 lists several values; for "
    "a run of each type -m before it, for one number type trainer.max_tokens=5000000",
    "train dataset.path=a,b.txt": "dataset.path=a,b.txt lists several values; for a run of each "
    "type -m before it, for a text with a comma in it type \"dataset.path='a,b.txt'\"",
    "train dataset.path=ä,b(2).txt": "dataset.path=ä,b(2).txt lists several values; for a run of "
    "each type -m before it, for a text with a comma in it type \"dataset.path='ä,b(2).txt'\"",
    "train callback.sample.prompts=Hi,Ho": "callback.sample.prompts=Hi,Ho lists several values; "
    "for a run of each type -m before it, for several at once type "
    "callback.sample.prompts=[Hi,Ho]",
    "train -m model.n_layer=glob(*)": "model.n_layer=glob(*) is a pattern, and model.n_layer has "
    "no choices to match it; type model.n_layer=A,B,C",
    "train -m model=glob(x*)": f"model=glob(x*) is not a choice\n  choices: {MODELS}",
    "train -m model=nano,smal": f"model=smal is not a choice; did you mean model=small?\n"
    f"  choices: {MODELS}",
    "train -m seed=interval(0,3)": "seed=interval(0,3) is a rule for values, and a grid tries "
    "listed ones; type seed=A,B,C, or search=random, or search=optuna",
    "train search=random": "search=random is about several runs; type -m before it",
    # files
    "train config_file=missing.json": "config_file=missing.json is not a file...",
    "train config_file=broken.jsn": "config_file=broken.jsn is not a file; did you mean "
    "config_file=broken.json?",
    "train config_file=broken.json": "broken.json is not JSON that can be read: Expecting property "
    "name enclosed in double quotes: line 1 column 12 (char 11)",
    # a run that goes on
    "train resume=nowhere": "resume=nowhere is not the folder of a run...",
    "train resume=empty": "resume=empty is not the folder of a run...",
    "train resume=run model=small": "model=small would make resume=run another run...",
    "train resume=run optimizer.lrr=1": "optimizer.lrr is not a field; did you mean "
    f"optimizer.lr?\n  fields: {full('optimizer', ADAMW)}",
    "train resume=run optimizer.lr=x": "optimizer.lr=x is of the wrong type: the field takes a "
    "number",
    # prepare
    "prepare model=small": "model does not change the prepared data, so prepare does not take it; "
    "use it with python -m tinygpt.train",
    "prepare datset=text": "datset is not a field; did you mean dataset?\n"
    "  top level: cache_dir, components, dataset, tokenizer, workers",
    "prepare dataset=text dataset.path=nowhere": "dataset.path=nowhere does not exist...",
    "prepare --dataset text": "--dataset is not a flag; settings are typed without dashes: "
    "dataset=text\n  python -m tinygpt.prepare --help lists what there is",
    # data
    "data model=small": "model does not change the prepared data, so data does not take it; "
    "use it with python -m tinygpt.train",
    "data candidates=[100]": "candidates=100 must be at least 258",
    "data candidates=many": "candidates=many is of the wrong type: the field takes a list of whole "
    "numbers, such as [1,2]",
    "data out=picture.jpg": "out=picture.jpg must end in .png; type out=picture.png",
    "data dataset=text dataset.path=nowhere": "dataset.path=nowhere does not exist...",
    "data tokenizer=hf": "tokenizer.path is missing; type tokenizer.path=...",
    f"data {TEXT} tokenizer=hf tokenizer.path=gpt2.json": "tokenizer.path=gpt2.json does not "
    "exist...",
    "data --out x.png": "--out is not a flag; settings are typed without dashes: out=x.png\n"
    "  python -m tinygpt.data --help lists what there is",
    # sample
    "sample run=nowhere": "run=nowhere is not the folder of a run...",
    "sample run=run": "run=run has no checkpoint...",
    "sample temperature=-1": "temperature=-1.0 must be at least 0",
    "sample top_k=0": "top_k=0 must be at least 1",
    "sample top_k=few": "top_k=few is of the wrong type: the field takes a whole number or null",
    "sample promt=x": "promt is not a field; did you mean prompt?\n  fields: checkpoint, "
    "components, device, ...",
    "sample prompt=a prompt_file=b": "prompt= and prompt_file= both say what to continue; ...",
    "sample out=x interactive=true": "out= has no use with interactive=true, which reads ...",
    "sample out_dir=here": "out_dir is not a field of tinygpt; here it is run=",
    "sample --prompt hello": "--prompt is not a flag; settings are typed without dashes: "
    "prompt=hello\n  python -m tinygpt.sample --help lists what there is",
    "sample seed=1 seed=2": "seed is typed twice: 1 and 2",
    "sample hello": "'hello' is not understood; settings are typed as key=value",
    "sample device=gpu": "device=gpu is not a choice; did you mean device=cuda?\n"
    "  choices: auto, cpu, cuda, mps",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to type commands in, with a run that has not begun."""
    path = tmp_path_factory.mktemp("here")
    (path / "stories.txt").write_text("Once there was a cat.")
    (path / "broken.json").write_text('{"seed": 1,')
    (path / "broken_module.py").write_text("1 / 0")
    theirs = {"components": ["broken_module"], "optimizer.name": "theirs"}
    (path / "theirs.json").write_text(json.dumps(theirs))
    (path / "hydra.json").write_text('{"hydra": {"sweeper": {"params": {"seed": "1,2"}}}}')
    (path / "empty").mkdir()
    cfg = compose.compose("train", [*TEXT.split(), "optimizer=adamw"])
    run = RunFolder.create(path / "run", cfg=cfg, overrides=[], run_id="run", group=None)
    run.close("interrupted")
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the working directory."""
    monkeypatch.chdir(folder)
    return folder


def exit_of(command: str) -> int | str | None:
    """Run `train seed=1`, say, as `python -m tinygpt.train seed=1` does; its exit code."""
    entry, *arguments = shlex.split(command)
    try:
        import_module(f"tinygpt.{entry}").main(arguments)
    except SystemExit as end:
        return end.code
    return 0


def contents() -> list[Path]:
    """All files of this folder, but for bytecode of a module that was imported."""
    return sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("command", BAD_COMMANDS)
@pytest.mark.usefixtures("here")
def test_a_bad_command_gets_an_error_with_what_to_type(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    assert exit_of(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    words = f"error: {BAD_COMMANDS[command]}"
    if words.endswith("..."):
        assert printed.err.startswith(words.removesuffix("..."))
        assert "Traceback" not in printed.err
    else:
        assert printed.err == f"{words}\n"
    assert contents() == before, "a mistake leaves nothing behind"


@pytest.mark.usefixtures("here")
def test_a_device_that_is_not_here_is_reported_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert exit_of(f"train {TEXT} device=cuda") == 2
    assert not Path("outputs").exists()
    printed = "".join(capsys.readouterr())
    assert "device=cuda is not available: it needs a CUDA build of torch" in printed
    assert "type device=cpu or device=auto" in printed
    assert "Traceback" not in printed


def test_a_text_that_is_not_here_is_reported_without_a_traceback(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of("train dataset=text dataset.path=storeis.txt") == 2
    assert not Path("outputs").exists()
    printed = "".join(capsys.readouterr())
    assert "dataset.path=storeis.txt does not exist; did you mean dataset.path=stories.txt?" in (
        printed
    )
    assert "Traceback" not in printed


def python(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A new interpreter that finds tinygpt from any folder."""
    paths = os.pathsep.join([str(ROOT), environment.pop("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        timeout=60,
    )


def forked(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """As `python`, in a process that has torch and tinygpt already."""
    return processes.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "entry",
    # the last two begin as train does
    ["train", "sample", *(pytest.param(e, marks=pytest.mark.slow) for e in ("prepare", "data"))],
)
def test_a_module_runs_from_any_folder_and_a_mistake_is_all_it_prints(
    entry: str, tmp_path: Path
) -> None:
    done = python("-m", f"tinygpt.{entry}", "foo", cwd=tmp_path)
    words = "error: 'foo' is not understood; settings are typed as key=value\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", words)


def console_script(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """What `tinygpt ARGUMENTS` exits with."""
    monkeypatch.setattr(sys, "argv", ["tinygpt", *arguments])
    try:
        main.main()
    except SystemExit as end:
        return end.code
    return 0


def test_the_console_script_is_the_same_as_the_modules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert console_script("train", "model=smal", monkeypatch=monkeypatch) == 2
    script = capsys.readouterr()
    assert exit_of("train model=smal") == 2
    assert capsys.readouterr() == script


def test_the_console_script_lists_its_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        assert console_script(*arguments, monkeypatch=monkeypatch) == 0
        printed = capsys.readouterr().out
        assert all(f"  tinygpt {command} " in printed for command in main.COMMANDS)
    assert console_script("trian", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == (
        "error: trian is not a command; did you mean tinygpt train?\n"
        f"  commands: {', '.join(main.COMMANDS)}\n"
    )


# Help


@pytest.mark.parametrize("entry", ["train", "prepare", "data"])
def test_help_has_every_choice_and_every_field(
    entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(f"{entry} model=smal --help") == 0  # help goes before any mistake
    printed = capsys.readouterr().out
    words = {word.partition("=")[0] for word in printed.split()}
    for group, options in choices.groups(entry).items():
        listed = re.search(rf"^  {group} .*\n(?: {{14}}.*\n)*", printed, re.MULTILINE)
        assert listed
        assert listed[0].replace("*", "").split() == [group, *(options or ["(none", "yet)"])]
        for name, cls in registry.classes(group).items() if group in registry.KINDS else ():
            prefix = f"{group}.{name}" if group in registry.MANY else group
            assert {f"{prefix}.{f.name}" for f in fields(cls) if f.name != "name"} <= words
    config_class = compose.CONFIG_CLASSES[entry]
    expected = {f.name for f in fields(config_class)} - {*choices.groups(entry)}
    if entry == "train":
        expected |= {f"trainer.{f.name}" for f in fields(TrainerConfig)}
        expected |= {f"device.{f.name}" for f in fields(DeviceConfig)}
    assert expected <= words
    assert max(map(len, printed.splitlines())) <= 100


def test_help_says_what_a_field_means_and_takes_and_marks_the_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exit_of("train --help")
    whole = capsys.readouterr().out
    printed = " ".join(whole.split())
    assert "trainer.seq_len=256 tokens the model sees at once, T" in printed
    assert "trainer.max_steps=null (a whole number) length in optimizer updates" in printed
    # a comment above the field, and one of a base class
    assert "sequences per forward; " in printed
    assert "dataset.window=packed where training windows begin: " in printed
    starred = re.findall(r"(\w+)\*", whole)
    entries = ("train", "sweep")
    chosen = [names for entry in entries for names in choices.default_choices(entry).values()]
    assert sorted(starred) == sorted(name for names in chosen for name in names if name)


def test_help_of_sample_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("sample --help") == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {f.name}=" in printed for f in fields(sample.SampleConfig))


def test_help_and_mistakes_are_answered_before_heavy_libraries_load(tmp_path: Path) -> None:
    code = """
        import sys
        from importlib import import_module
        heavy = ("torch", "datasets", "wandb", "sentencepiece", "matplotlib")
        for entry, argument in [("sample", "--help"), ("train", "model=smal"), ("train", "--help")]:
            try:
                import_module(f"tinygpt.{entry}").main([argument])
            except SystemExit:
                pass
            found = [name for name in heavy if name in sys.modules]
            print("loaded by", entry, argument, found)
    """
    done = python("-c", dedent(code), cwd=tmp_path)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded by")]
    assert [line.endswith("[]") for line in loaded] == [True] * 3, done.stdout + done.stderr


def test_the_composed_config_is_printed_as_a_config_file(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(f"train {TEXT} model=nano seed=3 -c job") == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    cfg = compose.compose("train", [*TEXT.split(), "model=nano", "seed=3"])
    assert config.load(tmp_path / "mine.yaml") == cfg


# Components from elsewhere

THEIRS = '''
    from dataclasses import dataclass

    from tinygpt.interfaces import OptimizerConfig
    from tinygpt.registry import register


    @register("optimizer")
    @dataclass
    class TheirsConfig(OptimizerConfig):
        """Not for use."""

        name: str = "theirs"
        patience: int = 3

        def build(self, model):
            raise NotImplementedError
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as pip would fill it with a package that has an optimizer."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(dedent(THEIRS))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tinygpt.components]\ntheirs = theirs\n")
    return site


@pytest.mark.slow
def test_an_installed_package_adds_a_choice(installed: Path, tmp_path: Path) -> None:
    def train(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ("-m", "tinygpt.train", *arguments)
        return python(*command, cwd=tmp_path, PYTHONPATH=str(installed))

    composed = train("optimizer=theirs", "optimizer.patience=5", "-c", "job")
    assert composed.returncode == 0, composed.stderr
    assert "optimizer:\n  name: theirs\n  lr: 0.001\n  patience: 5\n" in composed.stdout

    listed = train("--help").stdout
    assert "  optimizer   adamw* lion muon schedule_free sgd theirs\n" in listed
    assert "optimizer.patience=3" in listed

    (tmp_path / "config.yaml").write_text(composed.stdout)  # as in the folder of its run
    again = train("config_file=config.yaml", "-c", "job")
    assert again.stdout == composed.stdout, again.stderr

    wrong = train("optimizer=their")
    assert wrong.stderr == (
        "error: optimizer=their is not a choice; did you mean optimizer=theirs?\n"
        "  choices: adamw, lion, muon, schedule_free, sgd, theirs\n"
    )


def test_a_script_adds_a_choice_and_other_commands_are_given_its_module(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_optimizer.py").write_text(dedent(THEIRS))
    script = tmp_path / "lib" / "my_train.py"
    script.write_text("import my_optimizer\nfrom tinygpt.train import main\n\nmain()\n")
    done = forked(str(script), "optimizer=theirs", "seed=4", "-c", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nseed: 4\n" in done.stdout
    assert "  patience: 3\n" in done.stdout
    assert "components:\n- my_optimizer\n" in done.stdout
    (tmp_path / "config.yaml").write_text(done.stdout)

    again = ("-m", "tinygpt.train", "config_file=config.yaml", "-c", "job")
    refused = forked(*again, cwd=tmp_path)  # a file names modules, and imports none
    assert refused.stderr.endswith(
        "its module is not imported; if you trust my_optimizer, type components=[my_optimizer], or "
        "set TINYGPT_COMPONENTS=my_optimizer\n"
    )
    lib = str(tmp_path / "lib")
    typed = forked(*again, "components=[my_optimizer]", cwd=tmp_path, PYTHONPATH=lib)
    assert typed.stdout == done.stdout, typed.stderr
    environment = {"PYTHONPATH": lib, "TINYGPT_COMPONENTS": "my_optimizer"}
    assert forked(*again, cwd=tmp_path, **environment).stdout == done.stdout


@pytest.mark.slow
def test_a_script_with_a_component_of_its_own_sweeps_samples_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    code = dedent(THEIRS).replace(
        "raise NotImplementedError", "return RMSprop(model.parameters(), 0.1)"
    )
    (tmp_path / "lib" / "my_rmsprop.py").write_text(f"from torch.optim import RMSprop\n{code}")
    script = tmp_path / "lib" / "my_train.py"
    script.write_text("import my_rmsprop\nfrom tinygpt.train import main\n\nmain()\n")
    smoke = ["experiment=smoke", "trainer.max_steps=4", "trainer.eval_every=2", "cache_dir=cache"]
    swept = python(str(script), "-m", *smoke, "optimizer=theirs", "seed=0,1", cwd=tmp_path)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    run = sorted(tmp_path.glob("outputs/*_sweep/0"))[0]
    command = json.loads((run / "run.json").read_text())["command"]
    assert "components=[my_rmsprop]" in command
    found = {"PYTHONPATH": str(tmp_path / "lib")}
    for words in (
        ["tinygpt.sample", f"run={run}", "max_new_tokens=2"],
        ["tinygpt.train", f"resume={run}", "trainer.max_steps=6"],
    ):
        refused = python("-m", *words, cwd=tmp_path, **found)
        assert refused.returncode
        assert "type components=[my_rmsprop]" in refused.stderr
        done = python("-m", *words, "components=[my_rmsprop]", cwd=tmp_path, **found)
        assert done.returncode == 0, done.stderr


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = python("-m", "tinygpt", "--version", cwd=tmp_path)
    assert done.stdout == f"tinygpt {tinygpt.__version__}\n", done.stderr


# Advice

PLACES = {
    "VALUE": "3",
    "NAME,NAME": "sample",
    "experiment=NAME": "experiment=smoke",
    "callback=NAME": "callback=sample",
    "NAME": "tiny",
    "A,B,C": "1,2,3",
    "FILE": "theirs.json",
    "FOLDER": "run",
}


def advice_in(text: str) -> list[str]:
    """The settings that an error tells the user to type, with real values for placeholders."""
    words = re.findall(r"(?:type|mean|here it is|or none:|chosen; type) (['\"]?[~\w.]+=\S*)", text)
    words += [w for line in text.splitlines() if line.startswith('  "') for w in [line.strip()]]
    typed = [word.rstrip(",;?") for word in words]
    for place, value in PLACES.items():
        typed = [word.replace(place, value) for word in typed]
    return [shlex.split(word)[0] for word in typed]


def test_all_advice_can_be_typed() -> None:
    """What errors tell to type is not refused in turn, alone or as a sweep."""
    texts = [text for command, text in BAD_COMMANDS.items() if command.startswith("train")]
    advice = {word for text in texts for word in advice_in(text)}
    # files that are not here, and fields that another choice has
    advice -= {word for word in advice if word.startswith(("config_file=", "components="))}
    advice = {word for word in advice if not word.endswith(("=", "=..."))}
    advice -= {word for word in advice if word.startswith("trainer.lora_")}  # with init_from=RUN
    assert len(advice) > 15
    multirun = [
        [*(TEXT.split() if word.startswith("dataset") else ()), word] for word in sorted(advice)
    ]
    jobs = [job for settings in multirun for job in overrides.jobs(settings, multirun=True)]
    assert len(compose.compose_all("train", jobs)) >= len(advice)
