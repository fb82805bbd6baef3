"""Work of a benchmark's process that describes its environment; imports little, to start fast."""

import os
from collections.abc import Callable


class Variables:
    """Nothing is computed."""

    def __init__(self, spec: None, imported: Callable[[], None]) -> None:
        imported()

    def describe(self) -> dict[str, str]:
        """The variables of OpenMP."""
        return {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "GOMP_"))}

    def run(self, steps: int) -> None:
        raise NotImplementedError

    def device_peak_mem_bytes(self) -> None:
        raise NotImplementedError
