"""Commands, snippets and links in README.md, CONTRIBUTING.md and docs/ work."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.runs_on_disk import make_run
from tinygpt import compare, evaluate, export, runs, sample, serve, speedrun, upload
from tinygpt.config import compose, overrides
from tinygpt.config.choices import CONF
from tinygpt.language_model import LanguageModel
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.space import with_axes

ROOT = CONF.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")]
STUDIES = [  # recipes show what the defaults are
    page
    for page in PAGES
    if page.match("experiments/*/README.md") and page.parent.name != "recipes"
]
DOCS = [path for path in PAGES if path.parent.parent != ROOT / "experiments"]


def commands(entry: str) -> list[list[str]]:
    """The arguments of each command of an entry point in the code blocks of the documents."""
    found = []
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", f"tinygpt.{entry}"]:
                found.append(words[3:])
    return [*map(list, dict.fromkeys(map(tuple, found)))]


def exit_code(main, arguments):
    """What a command of the README exits with."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A folder with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("Once upon a time.\n\nThe end.")
    Path("mine.json").write_text(json.dumps({"model": "nano", "optimizer": {"lr": 1}}))


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("arguments", commands("train"), ids=" ".join)
def test_a_train_command_of_the_documents_composes(arguments):
    if any(word.startswith("resume=") for word in arguments):
        assert arguments == ["resume=outputs/RUN"]
        return
    settings = [word for word in arguments if word != "-m"]
    of_runs = [word for word in settings if not scheduler.is_about_sweeps(word)]
    if "-m" not in arguments:
        assert of_runs == settings
        compose.compose("train", overrides.jobs(of_runs, multirun=False)[0])
        return
    own = [word for word in settings if word in of_runs or word != "sweep=latest"]
    cfg = compose.compose("sweep", [word for word in own if word not in of_runs])
    search = cfg.search.build(overrides.space(with_axes(cfg, of_runs)), folder=Path())
    planned = search.planned()
    ends = [*planned[:2], *planned[2:][-2:]]  # thirty random ones take seconds
    assert compose.compose_all("train", ends) or cfg.search.name == "optuna"


@pytest.mark.parametrize("page", STUDIES, ids=lambda page: page.parent.name)
def test_a_study_names_what_another_default_would_change(page):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", "").splitlines():
        if re.search(r"tinygpt\.train -m \$|experiment=|resume=", line):
            continue
        if re.search(r"tinygpt\.train|^[A-Z]=", line):
            for choice in ("tokenizer", "model", "optimizer", "schedule"):
                assert f"{choice}=" in line, f"{choice}= is missing in {line}"


@pytest.mark.parametrize("arguments", commands("plan"), ids=" ".join)
def test_a_plan_command_of_the_documents_composes(arguments):
    compose.compose("train", overrides.jobs(arguments, multirun=False)[0])


@pytest.mark.parametrize("arguments", commands("coordinates"), ids=" ".join)
def test_a_coordinates_command_of_the_documents_composes(arguments):
    compose.compose("train", overrides.jobs(arguments, multirun=False)[0])


@pytest.mark.parametrize("arguments", commands("compare"), ids=" ".join)
def test_a_compare_command_of_the_documents_compares(arguments, examples, capsys):
    sweep = Path("outputs/2026_sweep" if arguments[0] == "latest" else arguments[0])
    make_run(sweep / "0")
    (sweep / "sweep.yaml").touch()
    if "metric=choices/mean" in arguments:
        assert exit_code(compare.main, arguments) == 2
        assert "measure it with\n  python -m tinygpt.evaluate" in capsys.readouterr().err
        return
    if "fit=scaling" in arguments:
        assert exit_code(compare.main, arguments) == 2
        assert "does not say vocab_size" in capsys.readouterr().err
        return
    assert exit_code(compare.main, arguments) == 0
    assert "one configuration" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", commands("evaluate"), ids=" ".join)
def test_an_evaluate_command_of_the_documents_looks_for_its_run(arguments, examples, capsys):
    Path("FOLDER").mkdir()
    assert exit_code(evaluate.main, arguments) == 2
    assert re.search(
        r"error: run=\S+( is not the folder of a run|: there is no run)", capsys.readouterr().err
    )


def test_a_speedrun_command_of_the_documents_looks_for_its_board(examples, capsys):
    for arguments in commands("speedrun"):
        assert exit_code(speedrun.main, arguments) == 2
        assert "board=experiments/speedrun has no entries/" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", commands("runs"), ids=" ".join)
def test_a_runs_command_of_the_documents_finds_runs(arguments, examples, capsys):
    assert arguments == ["status=unfinished"]
    make_run(Path("outputs/RUN"), status="paused")
    make_run(Path("outputs/OTHER"))
    assert exit_code(runs.main, arguments) == 0
    assert "1 of 2 runs" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", commands("upload"), ids=" ".join)
def test_an_upload_command_of_the_documents_finds_its_run(arguments, examples, capsys):
    make_run(Path("outputs/RUN"), status="queued")
    assert exit_code(upload.main, arguments) == 1
    assert "error: outputs/RUN: it is queued" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", commands("prepare"), ids=" ".join)
def test_a_prepare_command_of_the_documents_composes(arguments):
    compose.compose("prepare", overrides.jobs(arguments, multirun=False, entry="prepare")[0])


@pytest.mark.parametrize("arguments", commands("data"), ids=" ".join)
def test_a_data_command_of_the_documents_composes(arguments):
    compose.compose("data", overrides.jobs(arguments, multirun=False, entry="data")[0])


@pytest.mark.parametrize("arguments", commands("sample"), ids=" ".join)
def test_a_sample_command_of_the_documents_is_understood(arguments):
    settings = sample.parse(arguments)
    assert settings.prompt == ([] if settings.interactive else ["Once upon a time"])


@pytest.mark.parametrize("arguments", commands("export"), ids=" ".join)
def test_an_export_command_of_the_documents_is_understood(arguments):
    assert export.parse(arguments).run in ("outputs/RUN", "latest")


@pytest.mark.parametrize("arguments", commands("serve"), ids=" ".join)
def test_a_serve_command_of_the_documents_is_understood(arguments):
    assert serve.parse(arguments).run in (None, "latest")


def test_the_readme_shows_commands_of_every_kind():
    assert len(commands("train")) >= 8
    for entry in (
        "prepare",
        "data",
        "sample",
        "evaluate",
        "plan",
        "compare",
        "runs",
        "upload",
        "export",
        "serve",
        "speedrun",
    ):
        assert commands(entry), entry


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_make_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            plain = [re.sub(r"[^\w -]", "", heading) for heading in headings]
            names = [heading.lower().replace(" ", "-") for heading in plain]
            assert anchor in names, f"{target}#{anchor}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_page_of_docs_is_linked_from_the_readme():
    for page in ROOT.glob("docs/*.md"):
        if page.name != "kernels.md":  # linked from the pages on speed and design
            assert f"(docs/{page.name})" in README


def test_the_python_snippets_of_the_documents_run(tmp_path):
    code = ""
    for page in (ROOT / "README.md", ROOT / "docs/python.md", ROOT / "docs/sampling.md"):
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            code += snippet.replace("outputs/RUN", "latest").replace("max_steps=100", "max_steps=2")
    few = ', "model.n_layer=1", "dataset.train_stories=100", "dataset.validation_stories=2"'
    few += ', "cache_dir=cache"'
    small = few + ', "trainer.tokens_per_step=4096", "trainer.micro_batch_size=1"'
    code = code.replace(', "dataset=storyworld"', ', "dataset=storyworld"' + small)
    command = [sys.executable, "-c", code]
    done = processes.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(8, 65)" in done.stdout


def example(language: str, text: str = CONTRIBUTING) -> str:
    """The first code block of a text in a language."""
    return re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[1]


@pytest.mark.slow  # it trains below
def test_the_optimizer_of_contributing_is_a_choice_in_the_tree(tiny, tmp_path):
    """That it trains is shown below, where it is in a module of one's own."""
    tree = tmp_path / "tree"
    for folder in ("tinygpt", "conf"):
        shutil.copytree(ROOT / folder, tree / folder)
    (tree / "tinygpt/components/optimizers/rmsprop.py").write_text(example("python"))
    (tree / "conf/optimizer/rmsprop.yaml").write_text(example("yaml"))
    command = [sys.executable, "-m", "tinygpt.train", *tiny, "optimizer=rmsprop", "-c", "job"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "optimizer:\n  name: rmsprop\n" in done.stdout
    shown = subprocess.run([*command[:3], "--help"], cwd=tree, capture_output=True, text=True)
    assert "adamw lion muon* rmsprop schedule_free sgd" in shown.stdout
    assert "optimizer.momentum" in shown.stdout


def test_the_model_and_the_optimizer_of_the_documents_train_from_modules_of_ones_own(
    tiny, tmp_path
):
    (tmp_path / "my_rmsprop.py").write_text(example("python"))
    page = EXTENDING.partition("\n## A model\n")[2]
    (tmp_path / "my_lstm.py").write_text(example("python", page))
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "lstm_small.yaml").write_text(example("yaml", page))
    script = tmp_path / "mine.py"
    script.write_text("import my_lstm, my_rmsprop\nfrom tinygpt.train import main\n\nmain()\n")
    settings = [text for text in tiny if not text.startswith(("model", "callback"))]
    settings += ["model=lstm_small", "callback=[sample]", "optimizer=rmsprop"]
    command = [sys.executable, str(script), *settings, "--config-dir", str(tmp_path / "mine")]
    done = processes.run([*command, "optimizer.momentum=0.5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sample,) = (tmp_path / "outputs").glob("*/samples/step-00000010.txt")
    assert len(sample.read_text()) > 10
    bad = processes.run([*command, "optimizer.momentum=2"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "optimizer.momentum=2.0 must be below 1" in bad.stderr


def test_the_page_on_extending_names_all_that_a_model_may_offer():
    rows = re.findall(r"^\| `(\w+)` \|", EXTENDING, flags=re.MULTILINE)
    assert {*rows, "forward"} == {name for name in vars(LanguageModel) if name[0] != "_"}
