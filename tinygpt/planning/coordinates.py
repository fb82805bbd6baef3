"""The coordinate check: sizes of activations over widths.  B batch, T time.

Yang et al. 2022, "Tensor Programs V" (arXiv 2203.03466), appendix D.1.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import ModelConfig
from tinygpt.language_model import LanguageModel
from tinygpt.records import plots

VOCABULARY, SEQUENCES, TOKENS = 256, 8, 64  # of the batch: vocabulary, B and the most of T
PROPORTIONAL = ("n_head", "n_kv_head", "d_ff")  # fields of a model that grow with its width
GROWS = 0.15  # slope of log size over log width from which an activation is said to grow

Sizes = dict[str, float]  # kind of layer -> mean absolute activation


@dataclass(frozen=True)
class Coordinates:
    """Sizes by width, after each number of steps from 0 on; means over seeds."""

    widths: tuple[int, ...]
    sizes: tuple[dict[int, Sizes], ...]  # [steps][width]

    def slope(self, kind: str, steps: int) -> float:
        """Slope of log size over log width by least squares: 0 is flat, 0.5 is a square root."""
        logs = [np.log(self.sizes[steps][width][kind]) for width in self.widths]
        return float(np.polyfit(np.log(self.widths), logs, 1)[0])

    @property
    def kinds(self) -> list[str]:
        """The kinds of layers whose activations are not zero at the end, in order of use."""
        last = self.sizes[-1]
        return [kind for kind in last[self.widths[0]] if all(last[w][kind] for w in self.widths)]

    def growing(self) -> list[str]:
        """The kinds whose activations grow with the width after the last step."""
        return [kind for kind in self.kinds if self.slope(kind, -1) > GROWS]


def check(cfg: RunConfig, *, widths: Sequence[int], steps: int, seeds: int) -> Coordinates:
    """Train at each width, and measure before the first step and after each.

    Raises UserError for a width at which the model cannot be made.
    """
    found: list[dict[int, Sizes]] = [{} for _ in range(steps + 1)]
    for width in widths:
        wide = replace(cfg, model=widened(cfg.model, width))
        runs = [_train(wide, steps=steps, seed=cfg.seed + number) for number in range(seeds)]
        for step in range(steps + 1):
            kinds = runs[0][step]
            found[step][width] = {k: sum(run[step][k] for run in runs) / seeds for k in kinds}
    return Coordinates(tuple(widths), tuple(found))


def widened(model: ModelConfig, width: int) -> ModelConfig:
    """The model with this d_model, and as many heads as keep their size; raises UserError."""
    names = {f.name for f in fields(model)}
    if "d_model" not in names:
        raise UserError(f"model={model.name} has no d_model, so it cannot be made wider")
    values: Any = model
    changes: dict[str, Any] = {"d_model": width}
    for name in PROPORTIONAL:
        if name in names and getattr(values, name) is not None:
            scaled, rest = divmod(getattr(values, name) * width, values.d_model)
            if rest or not scaled:
                raise UserError(
                    f"widths: model.{name}={getattr(values, name)} at model.d_model="
                    f"{values.d_model} has no whole counterpart at {width}; type multiples of "
                    f"{values.d_model}"
                )
            changes[name] = scaled
    return replace(model, **changes)


def _train(cfg: RunConfig, *, steps: int, seed: int) -> list[Sizes]:
    """Sizes before the first step and after each, on one batch that is learned by heart."""
    torch.manual_seed(seed)
    time = min(cfg.trainer.seq_len, TOKENS)
    model = cfg.model.build(vocab_size=VOCABULARY, seq_len=time)
    model.use_kernels(False)
    optimizer = cfg.optimizer.build(model)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (SEQUENCES, time + 1), generator=generator)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    found = []
    for step in range(steps + 1):
        with _measured(model) as sizes, torch.no_grad():
            sizes["logits"] = [_size(model(inputs))]
        found.append({kind: sum(each) / len(each) for kind, each in sizes.items()})
        if step < steps:
            model.loss(inputs, targets).backward()  # type: ignore[no-untyped-call]  # torch's own
            if cfg.trainer.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
    return found


@contextmanager
def _measured(model: LanguageModel) -> Iterator[dict[str, list[float]]]:
    """Sizes of what every layer with weights of its own puts out, by kind, one of each layer."""
    sizes: dict[str, list[float]] = defaultdict(list)

    def watch(kind: str) -> Any:
        def measure(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                sizes[kind].append(_size(output))

        return measure

    hooks = [
        module.register_forward_hook(watch(re.sub(r"\.\d+(?=\.|$)", "", name)))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False)) and name
    ]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


def _size(activation: Tensor) -> float:
    return activation.abs().mean().item()


def show(found: Coordinates, *, out: Path) -> None:
    """Print the table and what it says, and draw the picture."""
    steps = len(found.sizes) - 1
    longest = max(map(len, found.kinds))
    print(f"mean absolute activation after {steps} step{'s' * (steps != 1)}")
    heads = "".join(f"{width:>10,}" for width in found.widths)
    print(f"{'':{longest}}{heads}{'x 2 width':>12}")
    for kind in found.kinds:
        row = "".join(f"{found.sizes[-1][width][kind]:>10.3g}" for width in found.widths)
        print(f"{kind:{longest}}{row}{2 ** found.slope(kind, -1):>11.2f}x")
    growing = found.growing()
    if growing:
        print(f"activations grow with the width in {len(growing)} of {len(found.kinds)} kinds:")
        print(f"  {', '.join(growing)}")
    else:
        print("no activation grows with the width")
    plots.coordinates(
        out,
        widths=found.widths,
        sizes={
            f"after {step} step{'s' * (step != 1)}": {
                kind: [found.sizes[step][width][kind] for width in found.widths]
                for kind in found.kinds
            }
            for step in sorted({1, steps})
        },
    )
    print(f"picture: {out}")
