"""Name -> config class for every kind of component; each class is published to Hydra as a schema.

A component module registers its config class and imports torch, datasets or wandb only inside
functions, so that listing the choices or refusing a typo is quick.  Torch code that needs classes
of its own lives beside it in `<component>_torch.py`, which is imported when the component is built.
"""

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TypeVar

from hydra.core.config_store import ConfigStore

from tinygpt.errors import UserError, nearest

KINDS = ("dataset", "tokenizer", "model", "optimizer", "schedule", "logger", "callback")
SWEEP_KINDS = ("search", "stopping", "launcher")  # of several runs, and no part of any of them
MANY = ("logger", "callback")  # kinds of which a run may have several, as {name: config}
ENTRY_POINT_GROUP = "tinygpt.components"

_PACKAGES = {kind: f"tinygpt.components.{kind}s" for kind in KINDS}
_PACKAGES |= {kind: f"tinygpt.sweeps.{kind}s" for kind in SWEEP_KINDS}
_PACKAGES["search"] = "tinygpt.sweeps.searches"

_classes: dict[str, dict[str, type]] = {kind: {} for kind in _PACKAGES}
C = TypeVar("C", bound=type)


def register(kind: str) -> Callable[[C], C]:
    """Class decorator: make a config dataclass choosable by its `name` default.

    Raises ValueError for an unknown kind, a class without a name, or a name taken already.
    """
    if kind not in _PACKAGES:
        raise ValueError(f"no component kind {kind!r}; kinds are {', '.join(_PACKAGES)}")

    def decorate(cls: C) -> C:
        name = next((f.default for f in fields(cls) if f.name == "name"), None)
        if not isinstance(name, str):
            raise ValueError(f"{cls.__name__} needs a field `name: str = ...`: the word users type")
        taken = _classes[kind].get(name)
        if taken and (taken.__module__, taken.__name__) != (cls.__module__, cls.__name__):
            raise ValueError(f"{kind} {name!r} is registered twice: {taken} and {cls}")
        _classes[kind][name] = cls
        store = ConfigStore.instance()
        store.store(group=f"schema/{kind}", name=name, node=cls)
        if name in without_yaml(kind):
            package = f"{kind}.{name}" if kind in MANY else None
            store.store(group=kind, name=name, node=cls, package=package)
        return cls

    return decorate


def lookup(kind: str, name: str) -> type:
    """The class registered as `name`; raises UserError with the nearest name."""
    classes = _classes[kind]
    if name not in classes:
        match = nearest(name, classes)
        hint = f"did you mean {match}?" if match else "install or import the package that has it"
        raise UserError(
            f"no {kind} is registered as {name!r}; {hint}\n"
            f"  registered: {', '.join(sorted(classes))}"
        )
    return classes[name]


def import_all() -> None:
    """Import every component module of tinygpt, then those that installed packages offer.

    A component that is a folder has its config class in `config.py`.
    """
    for name in _PACKAGES.values():
        for module in sorted(_modules(name)):
            if not module.endswith("_torch"):
                import_module(module)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()


def _modules(package: str) -> Iterator[str]:
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not found.ispkg:
            yield found.name
        elif find_spec(f"{found.name}.config"):
            yield f"{found.name}.config"


def without_yaml(kind: str) -> list[str]:
    """The names of classes that are not ours: each is a choice itself, with its own defaults."""
    ours = "tinygpt."
    return [n for n, cls in _classes.get(kind, {}).items() if not cls.__module__.startswith(ours)]


def classes(kind: str) -> dict[str, type]:
    """Every registered config class of a kind, by name."""
    return dict(sorted(_classes[kind].items()))
