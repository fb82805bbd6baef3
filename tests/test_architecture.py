"""The shape of the source tree: who imports whom, what is quick to import, what is not written."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tinygpt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))
# A module imports only from the lines above its own; those on one line do not know each other.
LAYERS = [
    line.split()
    for line in (
        "__init__",  # the version
        "errors",
        "registry",
        "interfaces",
        "metrics kernels",
        "losses",
        "config",
        "overrides",
        "mistakes",
        "compose",
        "space",
        "ranks",
        "parallel",
        "runtime",
        "sampling",
        "datasets tokenizers models optimizers schedules loggers callbacks "
        "searches stoppings launchers",
        "overlap progress disk",
        "shards encoding",
        "sharding",
        "preparation",
        "prepared",
        "inspection",
        "inspection_view",
        "batches",
        "state",
        "checkpoint",
        "run_folder",
        "records",
        "comparison",
        "comparison_view",
        "report",
        "plots",
        "trainer",
        "help",
        "cli",
        "planning",
        "run",
        "launch",
        "sweep_folder",
        "sweep_view",
        "sweep",
        "train prepare data sample compare runs upload plan",
    )
]
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line}
SLOW_TO_IMPORT = ("torch", "datasets", "wandb", "sentencepiece", "matplotlib", "transformers")
FORBIDDEN = {
    r"pickle": "a file may run code when it is loaded",
    r"_target_": "a config may import any path",
    r"(?<![\w.])(eval|exec)\(": "text becomes code",
    r"weights_only=False": "a checkpoint may run code when it is loaded",
    r"yaml\.(load|unsafe_load|full_load)\(": "a YAML may build objects; safe_load does not",
    r"shell=True": "text becomes a command",
}


def module_of(path: Path) -> str:
    """The file or folder directly in tinygpt/ that a source belongs to, without its suffix."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of tinygpt that the code imports, anywhere but under `if TYPE_CHECKING:`."""
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
        for name in names:
            package, _, rest = name.partition(".")
            module = rest.partition(".")[0]
            if package == "tinygpt":
                exists = (PACKAGE / module).is_dir() or (PACKAGE / f"{module}.py").is_file()
                yield module if module and exists else "__init__"


def without_docstrings_and_comments(tree: ast.Module) -> str:
    """The code alone, in one spelling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_layers_below_it(path: Path) -> None:
    module = module_of(path)
    assert module in LEVEL, f"give tinygpt/{module} its place in LAYERS"
    for other in imported(ast.parse(path.read_text())):
        assert other == module or LEVEL.get(other, len(LAYERS)) < LEVEL[module], (
            f"{path.relative_to(ROOT)} imports {other}, which does not stand below {module}"
        )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_module_class_and_function_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
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
    + [f"import tinygpt.{name}" for name in ("cli", "train", "prepare", "data", "sample")],
)
def test_listing_the_choices_imports_no_heavy_library(statement: str) -> None:
    code = f"{statement}; import sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout.split()
    assert "tinygpt.errors" in modules
    assert not set(SLOW_TO_IMPORT).intersection(modules)
