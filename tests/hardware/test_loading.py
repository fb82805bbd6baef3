"""What makes the import of PyTorch quick."""

import gc
import subprocess
import sys

import pytest

from tinygpt.hardware.loading import importing_torch

PRELOAD = """
import sys, threading
from pathlib import Path
from tinygpt.hardware.loading import preload_torch
preload_torch()
for thread in threading.enumerate()[1:]:
    thread.join()
assert "torch" not in sys.modules
print("libtorch_python" in Path("/proc/self/maps").read_text())
"""


def test_the_first_import_of_torch_is_never_searched_for_garbage(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gc.unfreeze()
    with importing_torch():
        assert not gc.isenabled()
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_an_error_of_the_import_leaves_the_collector_on(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ImportError), importing_torch():
        raise ImportError
    gc.unfreeze()
    assert gc.isenabled()


def test_a_later_import_changes_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    frozen = gc.get_freeze_count()
    with importing_torch():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")
def test_the_library_of_torch_is_loaded_without_its_import():
    done = subprocess.run(
        [sys.executable, "-c", PRELOAD], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
