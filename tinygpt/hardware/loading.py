"""Import PyTorch sooner: its import takes most of the time in which a command starts."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_LIBRARY = "lib/libtorch_python.so"
_RTLD_NOW = 2


def preload_torch() -> None:
    """Load PyTorch's library in a thread, while this one reads settings; does nothing but on Linux.

    `import torch` then finds it loaded. A call by ctypes runs without the lock of the interpreter.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    spec = find_spec("torch")
    if spec is not None and spec.origin is not None:
        library = Path(spec.origin).parent / _LIBRARY
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.restype = ctypes.c_void_p
        # if it fails, the import says why
        threading.Thread(target=dlopen, args=(bytes(library), _RTLD_NOW), daemon=True).start()


@contextmanager
def importing_torch() -> Iterator[None]:
    """Context for the first import of PyTorch: garbage collection skips what it creates.

    An import creates 300,000 objects that stay. The collector would search them for garbage during
    the import, later, and when the process ends: 2 s in all.
    """
    if "torch" in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
