"""Common setup of all tests: one CPU thread, a temporary home, no network, repeatable examples.

The environment is set here, before a test module can import a library that reads it.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import pictures
from tests.wandb_server import Server

_home = tempfile.TemporaryDirectory(prefix="tinygpt-tests-")
# the workers of xdist get the environment of the first process, and share the folder it names
os.environ.setdefault("SHARED_BY_TESTS", _home.name)
# kernels are compiled again only after a change of their source, gcc or CPU
_kernels = Path(__file__).parents[1] / ".pytest_cache/d/kernels"
_kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
Path(f"{_home.name}/.cache/tinygpt").mkdir(parents=True)
Path(f"{_home.name}/.cache/tinygpt/kernels").symlink_to(_kernels)

for name in list(os.environ):
    if name.startswith(("WANDB_", "HF_", "HYDRA_", "TINYGPT_", "XDG_")):
        del os.environ[name]
os.environ |= {
    "HOME": _home.name,  # ~/.cache, ~/.config and their like end up in it
    "XDG_CACHE_HOME": f"{_home.name}/.cache",
    "OMP_NUM_THREADS": "1",  # results depend on the number of threads in their last bits
    "MPLBACKEND": "agg",
    "HF_HUB_OFFLINE": "1",
    "WANDB_ERROR_REPORTING": "false",  # else wandb looks up a host name even offline
    "WANDB_X_SAVE_REQUIREMENTS": "false",  # it would read the metadata of every installed package
    # nothing listens on port 9: whatever tries to leave this machine is refused at once
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1"),
}

if "PYTEST_XDIST_WORKER" in os.environ:
    gc.disable()  # until all modules are imported

# without the bytecode of tinygpt each process of Python compiles it for a second
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# a shell's background job ignores Ctrl-C, one of nohup a terminal that closes, and so would every
# process that a test starts
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=50
)
settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu or gcc where there is no CUDA device, or no gcc on Linux."""
    if item.get_closest_marker("gcc") and not (sys.platform == "linux" and shutil.which("gcc")):
        pytest.skip("needs Linux and gcc")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the libraries and tests, which it would walk again and again.

    The first of several workers compiles the kernels, and the others wait for them.
    """
    gc.freeze()
    gc.enable()
    pictures.draw_no_curve()
    if "PYTEST_XDIST_WORKER" in os.environ and sys.platform == "linux":
        compile_kernels_once()


def compile_kernels_once() -> None:
    """Fill the cache of kernels that all workers share."""
    import fcntl

    import torch

    from tinygpt.kernels.build import Build, NotBuiltError

    with (_kernels / "lock").open("w") as lock, suppress(NotBuiltError):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if len(old := [*_kernels.glob("*.*")]) > 200:  # of many changes
            for path in old:
                path.unlink(missing_ok=True)
        for build in [Build(dtype) for dtype in (torch.float32, torch.bfloat16, None)]:
            build.library()


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Kill what a failed test has left running, such as a sweep that would go on for hours."""
    if call.when != "call":
        return
    if "tests.processes" in sys.modules:  # not imported here, which would be before the setup above
        sys.modules["tests.processes"].kill_all()
    began_by = f"PYTEST_CURRENT_TEST={node.nodeid} (call)".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.name != str(os.getpid()) and began_by in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


def pytest_unconfigure() -> None:
    """Remove the home, also in a worker of xdist, which never reaches its interpreter's exit."""
    _home.cleanup()


@pytest.fixture
def real_pictures() -> Iterator[None]:
    """The curves of runs are drawn."""
    with pictures.drawn():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for all tests of a file."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text of 60 documents, with rules that a model can learn."""
    people, things = ("Ann", "Ben", "Cleo", "Dan"), ("kite", "cake", "drum", "pear", "boat")
    documents = [
        f"{people[i % 4]} has a {things[i % 5]}. {people[i % 4]} gives the {things[i % 5]} to "
        f"{people[(i + 1) % 4]}. {people[(i + 1) % 4]} says: thank you, {people[i % 4]}!"
        for i in range(60)
    ]
    path = tmp_path_factory.mktemp("text") / "gifts.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tiny_in: Callable[[Path], list[str]], tmp_path: Path) -> list[str]:
    """Settings of a run that takes a fraction of a second."""
    return tiny_in(tmp_path)


@pytest.fixture(scope="session")
def tokens(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache_dir in which the text is prepared as characters."""
    from tinygpt.config import compose
    from tinygpt.corpus.prepared import prepare

    cache = tmp_path_factory.mktemp("tokens")
    text = [f"dataset.path={text_file}", "dataset.separator='\\n\\n'", f"cache_dir={cache}"]
    prepare(compose.compose("prepare", ["dataset=text", "tokenizer=char", *text]), lambda _: None)
    return cache


@pytest.fixture(scope="session")
def tiny_in(text_file: Path, tokens: Path) -> Callable[[Path], list[str]]:
    """Settings of such a run in a folder of the caller, which gets the prepared text."""

    def settings(folder: Path) -> list[str]:
        shutil.copytree(tokens, folder / "cache", dirs_exist_ok=True)
        return settings_in(folder, text_file)

    return settings


def settings_in(folder: Path, text_file: Path) -> list[str]:
    """The settings themselves."""
    return [
        "dataset=text",
        f"dataset.path={text_file}",
        "dataset.separator='\\n\\n'",
        "tokenizer=char",
        "optimizer=adamw",
        "schedule=cosine",
        "model=nano",
        "model.n_layer=2",
        "model.d_model=16",
        "model.n_head=2",
        "device=cpu",
        "device.precision=fp32",  # whatever this CPU is best at
        "device.compile=never",  # however long the run is
        "callback=[]",
        "trainer.seq_len=16",
        "trainer.micro_batch_size=4",
        "trainer.tokens_per_step=64",
        "trainer.max_steps=10",
        "trainer.eval_every=4",
        "trainer.eval_bytes=null",
        "trainer.log_every=1",
        "trainer.save_every=5",
        f"output_dir={folder / 'outputs'}",
        f"cache_dir={folder / 'cache'}",
    ]


@pytest.fixture
def wandb_server() -> Iterator[ThreadingHTTPServer]:
    """W&B's server for one test, that starts with nothing."""
    Server.received, Server.files = [], {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
