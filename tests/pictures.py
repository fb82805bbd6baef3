"""Curves of runs are saved as empty pictures: to draw one takes a third of a tiny run.

The figure is made, and so is the file; tests of pictures draw them (fixture real_pictures).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def draw_no_curve() -> None:
    """Save empty pictures in place of curves from now on."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(self: Figure, path: Any, **options: Any) -> None:
        if "pil_kwargs" in options:  # a curve, of which there is one for each run
            self = Figure(figsize=(0.1, 0.1))
        save(self, path, **options)

    savefig.real = save  # type: ignore[attr-defined]
    Figure.savefig = savefig  # type: ignore[method-assign]


@contextmanager
def drawn() -> Iterator[None]:
    """Draw them meanwhile."""
    from matplotlib.figure import Figure

    empty = Figure.savefig
    Figure.savefig = empty.real  # type: ignore[attr-defined, method-assign]
    try:
        yield
    finally:
        Figure.savefig = empty  # type: ignore[method-assign]
