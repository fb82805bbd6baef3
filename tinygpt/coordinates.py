"""Coordinates: check whether activations keep their size when a model is made wider."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tinygpt import config, console
from tinygpt.cli.arguments import parse_arguments
from tinygpt.config import compose, overrides
from tinygpt.errors import UserError, check_range

HELP = """\
python -m tinygpt.coordinates [widths=[64,128,256]] [steps=4] [GROUP=CHOICE ...] [FIELD=VALUE ...]

The coordinate check of Tensor Programs V (arXiv 2203.03466, appendix D.1): trains the model at
several widths for a few steps on one batch of random tokens, at the full learning rate, and shows
the mean absolute activation of each kind of layer. If none grows with the width, a learning rate
that is good at one width is likely to be good at the others.

  python -m tinygpt.coordinates model=nano optimizer.scaling=mup
  python -m tinygpt.coordinates model=nano optimizer=muon widths=[32,64,128] optimizer.lr=0.02

Fields
  widths  values of model.d_model; heads grow in number and keep their size (default [64,128,256])
  steps   training steps (default 4)
  seeds   seeds of weights and tokens, to average over (default 3)
  out     the picture, a .png (default coordinates.png)
"""
_OWN = ("widths", "steps", "seeds", "out")


@dataclass
class CoordinatesConfig:
    """Which widths are compared, and for how long."""

    widths: list[int] = field(default_factory=lambda: [64, 128, 256])
    steps: int = 4
    seeds: int = 3
    out: str = "coordinates.png"

    def __post_init__(self) -> None:
        for width in self.widths:
            check_range("widths", width, low=1, high=1_000_000)
        if len(set(self.widths)) < 2:
            raise UserError(f"widths={self.widths} must hold two or more; type widths=[64,128,256]")
        self.widths = sorted(set(self.widths))
        check_range("steps", self.steps, low=1, high=10_000)
        check_range("seeds", self.seeds, low=1, high=1000)
        if Path(self.out).suffix != ".png":
            raise UserError(f"out={self.out} must end in .png; type out={Path(self.out).stem}.png")


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point."""
    console.printing_the_result()
    args = parse_arguments("coordinates", arguments)
    if args.help:
        print(HELP, end="")
        return 0
    own = [text for text in args.settings if text.partition("=")[0] in _OWN]
    of_run = [text for text in args.settings if text not in own]
    values: dict[str, Any] = {}
    names = [f.name for f in fields(CoordinatesConfig)]
    for override in overrides.parse(own):
        key = override.key_or_group
        assert key in names
        values[key] = config.convert(CoordinatesConfig, key, override.value(), field_name=key)
    settings = CoordinatesConfig(**values)
    (job,) = overrides.jobs(of_run, multirun=False, config_dir=args.config_dir)
    cfg = compose.compose("train", job, config_dir=args.config_dir)

    from tinygpt.planning import coordinates  # imports torch

    found = coordinates.check(
        cfg, widths=settings.widths, steps=settings.steps, seeds=settings.seeds
    )
    coordinates.show(found, out=Path(settings.out))
    return 0


if __name__ == "__main__":
    main()
