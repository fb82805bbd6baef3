"""The source tree: which modules import which, imports that are fast, and forbidden code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinygpt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))
# The plan in CONTRIBUTING.md, a floor per line: a file imports from its own folder and from lower
# floors; two names on one floor do not import each other.
PLAN = re.search(r"```plan\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
assert PLAN, "CONTRIBUTING.md has the plan of the floors"
FLOORS = [line.split("  ")[0].split() for line in PLAN[1].splitlines()]
LEVEL = {name: level for level, floor in enumerate(reversed(FLOORS)) for name in floor}
SLOW_TO_IMPORT = ("torch", "datasets", "wandb", "sentencepiece", "matplotlib", "transformers")
FORBIDDEN = {
    r"pickle": "a file may run code when it is loaded",
    r"_target_": "a config may import any path",
    r"(?<![\w.])(eval|exec)\(": "text becomes code",
    r"weights_only=False": "a checkpoint may run code when it is loaded",
    r"yaml\.(load|unsafe_load|full_load)\(": "a YAML may build objects; safe_load does not",
    r"shell=True": "text becomes a command",
}


@cache
def tree_of(path: Path) -> ast.Module:
    """The code of a file; nobody changes it."""
    return ast.parse(path.read_text())


def module_of(path: Path) -> str:
    """The file or folder directly in tinygpt/ that a source belongs to, without its suffix."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> list[str]:
    return list(imported(tree_of(path)))


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules and packages of tinygpt that the code imports, such as `config.schema`.

    Imports under `if TYPE_CHECKING:` do not count.
    """
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"write the import in full: {ast.unparse(node)}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, *parts in (name.split(".") for name in names):
            if package == "tinygpt":
                while parts and not (PACKAGE / "/".join(parts)).with_suffix(".py").is_file():
                    if (PACKAGE / "/".join(parts)).is_dir():
                        break
                    parts.pop()
                yield ".".join(parts) or "__init__"


def without_docstrings_and_comments(tree: ast.Module) -> str:
    """The code alone, in one spelling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_the_plan_names_every_file_and_folder_of_the_package_once() -> None:
    names = [name for floor in FLOORS for name in floor]
    assert sorted(names) == sorted(set(map(module_of, SOURCES)) - {"__init__"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_floors_below_its_own(path: Path) -> None:
    module = module_of(path)
    for other in (name.split(".")[0] for name in imports_of(path)):
        assert other in (module, "__init__") or LEVEL[other] < LEVEL.get(module, len(FLOORS)), (
            f"{path.relative_to(ROOT)} imports {other}, which does not stand below {module}"
        )


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: none is there to hide a circle."""
    imports = {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): {*imports_of(path)}
        for path in SOURCES
        if path.name != "__init__.py"
    }
    graph = {module: targets & imports.keys() for module, targets in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_module_class_and_function_has_a_docstring(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} does not say what it is for"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} in {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", SOURCES + YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".py":
        text = without_docstrings_and_comments(ast.parse(text))
    for pattern, danger in FORBIDDEN.items():
        found = re.search(pattern, text)
        assert not found, f"{found and found[0]!r} in {path.relative_to(ROOT)}: {danger}"


@pytest.mark.parametrize(
    "statement",
    ["from tinygpt.registry import import_all; import_all()"]
    + [
        f"import tinygpt.{name}"
        for name in ("cli.main", "train", "prepare", "data", "sample", "export")
    ],
)
def test_listing_the_choices_imports_no_heavy_library(statement: str) -> None:
    code = f"{statement}; import sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout.split()
    assert "tinygpt.errors" in modules
    assert not set(SLOW_TO_IMPORT).intersection(modules)
