"""Maps names to config classes for every kind of component; publishes each as a Hydra schema.

A component module registers its config class. It imports torch, datasets or wandb only inside
functions, so listing the choices or rejecting a typo is quick. Classes that need torch are in
`<component>_torch.py` next to it, which is imported when the component is built.
"""

import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore

from tinygpt.errors import UserError, nearest

KINDS = ("dataset", "tokenizer", "model", "optimizer", "schedule", "logger", "callback")
SWEEP_KINDS = ("search", "stopping", "launcher")  # kinds that belong to a sweep, not to a run
EVALUATION_KINDS = ("evaluation",)  # kinds that belong to `tinygpt.evaluate`
MANY = ("logger", "callback")  # a run may have several of these, as {name: config}
ENTRY_POINT_GROUP = "tinygpt.components"

_PACKAGES = {kind: f"tinygpt.components.{kind}s" for kind in KINDS}
_PACKAGES |= {kind: f"tinygpt.sweeps.{kind}s" for kind in SWEEP_KINDS}
_PACKAGES["search"] = "tinygpt.sweeps.searches"
_PACKAGES["evaluation"] = "tinygpt.evaluation.suites"

ENVIRONMENT = "TINYGPT_COMPONENTS"  # modules to import, separated by commas

_installed: set[str] = set()  # packages whose entry points are loaded
_classes: dict[str, dict[str, type]] = {kind: {} for kind in _PACKAGES}
C = TypeVar("C", bound=type)


def register(kind: str) -> Callable[[C], C]:
    """Class decorator: register a config dataclass under the default of its `name` field.

    Raises ValueError for an unknown kind, a class without a name, or a name already in use.
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


def all_classes() -> tuple[type, ...]:
    """Every registered class, of all kinds."""
    return tuple(cls for classes in _classes.values() for cls in classes.values())


def lookup(kind: str, name: str) -> type:
    """The class registered as `name`; if there is none, the UserError suggests the nearest name."""
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
    """Import every component module of tinygpt, of packages, and of TINYGPT_COMPONENTS."""
    _import_installed()
    import_components(filter(None, os.environ.get(ENVIRONMENT, "").split(",")), field=ENVIRONMENT)


@cache  # what is installed stays the same while a process lives
def _import_installed() -> None:
    for kind in _PACKAGES:
        import_kind(kind)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()
        _installed.add(entry_point.module.partition(".")[0])


def import_kind(kind: str) -> None:
    """Import tinygpt's component modules of one kind.

    If a component is a folder, its config class is in the folder's `config.py`.
    """
    for module in sorted(_modules(_PACKAGES[kind])):
        if not module.endswith("_torch"):
            import_module(module)


def import_components(modules: Iterable[str], *, field: str = "components") -> None:
    """Import modules that register components; raises UserError.

    Importing a module runs its code, so pass only names from the user's own command line or
    environment, never from a file. The working folder is searched last.
    """
    for name in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(
                f"{field}={name} is not the name of a module; type it as Python imports it, such "
                "as my_rmsprop for my_rmsprop.py, or my_package.rmsprop"
            )
        if not {"", str(Path.cwd())}.intersection(sys.path):
            sys.path.append("")
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                raise UserError(
                    f"{field}={name}: Python finds no module {error.name}; type the command in "
                    "the folder of the module, or add that folder to PYTHONPATH"
                ) from None
            raise _broken(field, name, error) from None
        except Exception as error:
            raise _broken(field, name, error) from None


def _broken(field: str, name: str, error: Exception) -> UserError:
    """The error for a module whose import raised an exception, with the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}, line {error.lineno}"
    else:
        where = f"{last.filename}, line {last.lineno}"
    return UserError(
        f"{field}={name} cannot be imported: {type(error).__name__}: {error} ({where})"
    )


def module_of(cls: type) -> str | None:
    """The user's module that defines a class; None if tinygpt or an installed package does."""
    package = cls.__module__.partition(".")[0]
    return None if package in {"tinygpt", *_installed} else cls.__module__


def not_imported(modules: Iterable[str]) -> list[str]:
    """The modules in the list that this process has not imported."""
    return [name for name in modules if name not in sys.modules or name == "__main__"]


def let_processes_find(modules: Iterable[str]) -> None:
    """Put the folders of imported modules on PYTHONPATH, which child processes inherit.

    Python adds a script's folder to the path of the script's own process only.
    """
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    for name in modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file:
            depth = name.count(".") + (Path(file).stem == "__init__")
            folder = str(Path(file).resolve().parents[depth])
            folders += [folder] if folder not in folders else []
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)


def how_to_import(modules: Iterable[str]) -> str:
    """Advice on how to import the modules still missing here; "" if none is missing."""
    missing = not_imported(modules)
    if not missing:
        return ""
    if "__main__" in missing:
        return (
            "it was defined in a script or notebook that only that process has; move it to a "
            "module, such as my_components.py, and type components=[my_components]"
        )
    listed = ",".join(missing)
    return (
        f"its module is not imported; if you trust {listed}, type components=[{listed}], or set "
        f"{ENVIRONMENT}={listed}"
    )


def _modules(package: str) -> Iterator[str]:
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not found.ispkg:
            yield found.name
        elif find_spec(f"{found.name}.config"):
            yield f"{found.name}.config"


def without_yaml(kind: str) -> list[str]:
    """Names of classes from outside tinygpt; they are choices without a YAML file."""
    ours = "tinygpt."
    return [n for n, cls in _classes.get(kind, {}).items() if not cls.__module__.startswith(ours)]


def classes(kind: str) -> dict[str, type]:
    """Every registered config class of a kind, by name."""
    return dict(sorted(_classes[kind].items()))
