"""The source tree: which modules import which, imports that are fast, and forbidden code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

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


def test_a_module_imports_only_from_the_floors_below_its_own() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}, which does not stand below {module}"
        for path in SOURCES
        for module in [module_of(path)]
        for other in (name.split(".")[0] for name in imports_of(path))
        if other not in (module, "__init__") and LEVEL[other] >= LEVEL.get(module, len(FLOORS))
    ]
    assert not wrong, "\n".join(wrong)


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


def test_every_public_module_class_and_function_has_a_docstring() -> None:
    without = [path.relative_to(ROOT) for path in SOURCES if not ast.get_docstring(tree_of(path))]
    assert not without, f"these do not say what they are for: {without}"
    names = [
        f"{node.name} in {path.relative_to(ROOT)}"
        for path in SOURCES
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert not names, f"these have no docstring: {names}"


def dangers_in(path: Path) -> list[str]:
    """What a file holds that could run code from a file or a text; prose may name it."""
    text = path.read_text()
    # `ruff format` has written the code in one spelling, so most files need not be parsed
    suspected = {p: why for p, why in FORBIDDEN.items() if re.search(p, text)}
    if suspected and path.suffix == ".py":
        text = without_docstrings_and_comments(ast.parse(text))
    found = {re.search(pattern, text): danger for pattern, danger in suspected.items()}
    return [f"{match[0]!r} in {path.name}: {danger}" for match, danger in found.items() if match]


def test_nothing_that_is_read_can_run_code(tmp_path: Path) -> None:
    assert len(SOURCES + YAMLS) > 300
    dangers = [danger for path in SOURCES + YAMLS for danger in dangers_in(path)]
    assert not dangers, "\n".join(dangers)
    (bad := tmp_path / "bad.py").write_text('"""Not pickle."""\nx = eval("1")  # exec()\n')
    assert dangers_in(bad) == ["'eval(' in bad.py: text becomes code"]


def test_listing_the_choices_imports_no_heavy_library() -> None:
    names = ("cli.main", "train", "prepare", "data", "sample", "export")
    statements = [f"import tinygpt.{name}" for name in names]
    statements.append("from tinygpt.registry import import_all; import_all()")
    code = f"""
        import sys
        for statement in {statements}:
            exec(statement)
            print(statement, "|", *sys.modules)
    """
    printed = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    for statement, line in zip(statements, printed, strict=True):
        modules = line.removeprefix(f"{statement} |").split()
        assert "tinygpt.errors" in modules
        assert not set(SLOW_TO_IMPORT).intersection(modules), statement
