"""The whole project: every choice in conf/ composes, and the built wheel works."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from zipfile import ZipFile

import pytest

from tinygpt import config, registry
from tinygpt.config.compose import compose

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# what a choice cannot do without and no default can know
NEEDED = {
    "dataset=text": ["dataset.path=stories.txt"],
    "dataset=hub": ["dataset.repo=someone/stories"],
    "tokenizer=hf": ["tokenizer.path=tokenizer.json"],
}
ALONE = ("experiment", "sweep")  # folders of choices that make choices themselves


def choices(group: str) -> list[str]:
    """The choices of a folder of conf/."""
    found = sorted(f"{group}={path.stem}" for path in (CONF / group).glob("*.yaml"))
    # the first schedule is the one that it needs
    return sorted(found, key=lambda choice: choice != "optimizer=schedule_free")


def composed(entry: str, groups: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Each choice of these groups once, beside one of each other group: composing takes long."""
    for row in zip_longest(*map(choices, groups)):
        chosen = [choice for choice in row if choice]
        needed = [text for choice in chosen for text in NEEDED.get(choice, [])]
        yield chosen, compose(entry, [*chosen, *needed])


FOLDERS = {path.name for path in CONF.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def of_runs() -> list[tuple[list[str], Any]]:
    """Choices and configs of runs, which together have every choice."""
    registry.import_all()
    together = sorted(FOLDERS - {*registry.SWEEP_KINDS, *ALONE})
    return [*composed("train", together), *composed("train", ["experiment"])]


def test_a_saved_config_loads_back_equal(
    of_runs: list[tuple[list[str], Any]], tmp_path: Path
) -> None:
    for _, cfg in of_runs:
        config.save(cfg, tmp_path / "config.yaml")
        assert config.load(tmp_path / "config.yaml") == cfg
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_every_choice_in_conf_composes_and_every_component_can_be_chosen(
    of_runs: list[tuple[list[str], Any]],
) -> None:
    folders = FOLDERS
    n_choices = sum(len(choices(folder)) for folder in folders)
    assert n_choices == len([*CONF.glob("*/**/*.yaml")])
    made = [
        *of_runs,
        *composed("sweep", registry.SWEEP_KINDS),
        *composed("sweep", ["sweep"]),
    ]
    assert {choice for chosen, _ in made for choice in chosen} == {
        choice for folder in folders for choice in choices(folder)
    }
    for _ in composed("prepare", ["dataset", "tokenizer"]):
        pass
    for kind in (*registry.KINDS, *registry.SWEEP_KINDS):
        values = [
            getattr(cfg, kind) for chosen, cfg in made for c in chosen if c.startswith(f"{kind}=")
        ]
        found = {
            chosen.name for v in values for chosen in (v.values() if kind in registry.MANY else [v])
        }
        classes = registry.classes(kind).items()
        ours = {name for name, cls in classes if cls.__module__.startswith("tinygpt.")}
        assert found == ours, f"conf/{kind}/ and its package differ"


def output_of(*command: str | Path, **options: Any) -> str:
    """What the command prints; a command that fails raises, with its words."""
    done: CompletedProcess[str] = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_the_whole_conf_and_runs_in_an_empty_folder(tmp_path: Path) -> None:
    dist, site, empty = (tmp_path / name for name in ("dist", "site", "empty"))
    empty.mkdir()
    # the wheel is built from the sdist, so this proves both
    output_of(sys.executable, "-m", "build", "-q", "--no-isolation", f"-o{dist}", ROOT)
    (wheel,) = dist.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {f"tinygpt/{path.relative_to(ROOT)}" for path in CONF.rglob("*.yaml")} <= names
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("tinygpt/**/*.py")} <= names
    assert all(name.startswith("tinygpt") for name in names)

    install = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index")
    output_of(*install, f"--target={site}", wheel)
    run = partial(output_of, cwd=empty, env=os.environ | {"PYTHONPATH": str(site)})
    assert run(sys.executable, "-c", "import tinygpt; print(tinygpt.__file__)").startswith(
        str(site)
    )
    assert "model=" in run(sys.executable, "-m", "tinygpt.train", "--help")
    assert "model=" in run(site / "bin" / "tinygpt", "train", "--help")
    assert not list(empty.iterdir())
