"""tinygpt: a lab bench for small language models.

From Python: `tinygpt.run`, `load`, `find` and `rank`; `tinygpt.api` documents them. Importing
tinygpt is fast, since each name is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.api import Ranking, Run, Token, find, load, rank, run
    from tinygpt.errors import UserError

__version__ = "0.2.0"
__all__ = ["Ranking", "Run", "Token", "UserError", "find", "load", "rank", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tinygpt' has no attribute {name!r}")
    from importlib import import_module

    module = import_module("tinygpt.errors" if name == "UserError" else "tinygpt.api")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
