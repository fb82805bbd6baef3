"""The whole project: every choice in conf/ composes, and the built wheel works."""

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from zipfile import ZipFile

import pytest

from tinygpt import registry
from tinygpt.config.compose import compose

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}" for path in CONF.glob("*/**/*.yaml")
)
# what a choice cannot do without and no default can know
NEEDED = {
    "optimizer=schedule_free": ["schedule=constant"],
    "dataset=text": ["dataset.path=stories.txt"],
    "dataset=hub": ["dataset.repo=someone/stories"],
    "tokenizer=hf": ["tokenizer.path=tokenizer.json"],
}


@cache
def composed(choice: str) -> Any:
    """The config of a choice: that of a run, or of a sweep."""
    entry = "sweep" if choice.partition("=")[0] in (*registry.SWEEP_KINDS, "sweep") else "train"
    return compose(entry, [choice, *NEEDED.get(choice, [])])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_in_conf_composes_and_resolves(choice: str) -> None:
    composed(choice)
    if choice.startswith(("dataset=", "tokenizer=")):
        compose("prepare", [choice, *NEEDED.get(choice, [])])


def test_every_registered_component_can_be_chosen() -> None:
    registry.import_all()
    for kind in (*registry.KINDS, *registry.SWEEP_KINDS):
        chosen = set()
        for choice in (c for c in CHOICES if c.startswith(f"{kind}=")):
            value = getattr(composed(choice), kind)
            chosen |= {c.name for c in (value.values() if kind in registry.MANY else [value])}
        classes = registry.classes(kind).items()
        ours = {name for name, cls in classes if cls.__module__.startswith("tinygpt.")}
        assert chosen == ours, f"conf/{kind}/ and its package differ"


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
