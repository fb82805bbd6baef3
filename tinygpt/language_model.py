"""What a model offers to training, sampling, planning and optimizers: the class to derive from.

B batch, T time, C width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tinygpt.kernels.loss import cross_entropy

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


class Role(StrEnum):
    """What a parameter is for; optimizers choose weight decay, rate and rule by it."""

    EMBEDDING = "embedding"  # rows that are looked up by an id, also where they make logits as well
    HEAD = "head"  # the matrix that makes logits and nothing else
    HIDDEN = "hidden"  # any other matrix
    NORM = "norm"  # gains and shifts of normalisation layers
    BIAS = "bias"
    SCALAR = "scalar"  # any other vector or number, such as the learned weight of a shortcut

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices, not to vectors and numbers."""
        return self in (Role.EMBEDDING, Role.HEAD, Role.HIDDEN)


class Decoder(Protocol):
    """Reads tokens of several sequences and returns logits; each sequence has a slot, its cache.

    The logits of a slot depend on its own tokens only, to the last bit: not on the other slots of
    a call, nor on their number, nor on the number of threads, nor on whether `prefill` or `step`
    read a token.
    """

    @property
    def n_slots(self) -> int:
        """Sequences that it holds."""
        ...

    @property
    def capacity(self) -> int | None:
        """Most tokens of a slot; None: any number."""
        ...

    def prefill(
        self, slot: int, tokens: Sequence[int], *, every: bool = False
    ) -> npt.NDArray[np.float32]:
        """Forget what the slot holds and read tokens, at least one.

        Returns logits (V,) after the last token, or (T, V) after each with `every`.
        """
        ...

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Read one more token for each of these distinct slots; returns logits (n, V)."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make slot `target` hold what `source` holds: one prompt, many samples."""
        ...


class LanguageModel(nn.Module, ABC):
    """Tokens in, logits out.  Only `forward` must be written; the rest has defaults that work.

    A model with a cache takes it as `forward(tokens, cache=...)`.  A model whose config says
    `masks_documents` takes `documents` in `forward` and in `loss`: ids (B, T) that grow from one
    document to the next, of which a position sees its own only.
    """

    # whether a cache holds at most seq_len tokens; False: any number, in constant memory
    bounded_cache: ClassVar[bool] = True

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T), int64, to logits (B, T, V): position t sees tokens up to and including t.

        Raises ValueError for more tokens than the model has positions.
        """

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean nats per target (B, T).

        Override it to compute the same number without all logits in memory at once.
        """
        apart = {} if documents is None else {"documents": documents}
        return cross_entropy(self(tokens, **apart), targets)

    def new_cache(self) -> Any:
        """An empty cache: calls that share it each take only the tokens that follow.

        None if the model has no cache, so that it needs all tokens at each call.
        """
        return None

    def new_slots(self, n_slots: int) -> Any:
        """A cache of sequences at different positions, to read one token of each in one call.

        `forward(tokens (n_slots, 1), cache=slots)` reads them; before, the caller sets `positions`
        (n_slots,) of the tokens and `reads` (n_slots,), False for rows whose token is none.  It has
        `put(slot, cache)` with what `new_cache` returned, and `copy(source, target)`.  No shape
        depends on the positions.  None if the model has no such cache.
        """
        return None

    def decoder(self, n_slots: int, *, weights: str = "auto") -> Decoder | None:
        """A decoder for this many sequences, with a copy of the weights as they are now.

        `weights` is how it holds them: fp32, bf16 or int8; auto leaves it to the model.  None if
        the model has no decoder that is faster than `forward` where it is now.
        """
        return None

    def roles(self) -> dict[str, Role]:
        """The role of each parameter, by its name in `named_parameters` (a tied one once).

        The default goes by the kind of module and by dimensions.  It never says `HEAD`: a model
        with an untied output matrix overrides it.
        """
        kinds = {
            id(parameter): type(module)
            for module in self.modules()
            for parameter in module.parameters(recurse=False)
            if isinstance(module, (nn.Embedding, *NORMS))
        }
        return {
            name: _role(name, parameter, kinds.get(id(parameter)))
            for name, parameter in self.named_parameters()
        }

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups of an optimizer: trainable parameters that decay, then those that do not."""
        roles = self.roles()
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [p for name, p in named if roles[name].decays is decays],
                "weight_decay": weight_decay if decays else 0.0,
            }
            for decays in (True, False)
        ]
        return groups

    @property
    def width(self) -> int:
        """The size of a token's embedding."""
        roles = self.roles()
        return next(p.size(-1) for n, p in self.named_parameters() if roles[n] is Role.EMBEDDING)

    def output_norm(self) -> list[str]:
        """Names of the gain and shift of what a tied output matrix reads; by default none."""
        return []

    def stacked(self) -> Mapping[str, tuple[int, ...]]:
        """Hidden matrices that are several in one: name -> rows of each, such as of q, k and v."""
        return {}

    def flops_per_token(self) -> int:
        """Floating-point operations of forward and backward for one training token.

        The default counts matrix products only: 6 for each weight of a hidden matrix or head.
        PaLM (arXiv 2204.02311), appendix B.  Attention and a tied output matrix come on top.
        """
        roles, multiplied = self.roles(), (Role.HIDDEN, Role.HEAD)
        return 6 * sum(p.numel() for n, p in self.named_parameters() if roles[n] in multiplied)

    def units(self) -> list[nn.Module]:
        """Parts whose weights FSDP gathers together, outer ones first.

        The default: what ModuleLists hold, which is what a model repeats.
        """
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        found = dict.fromkeys(part for modules in lists for part in modules)
        return [part for part in found if not isinstance(part, nn.ModuleList | nn.ModuleDict)]

    def use_kernels(self, on: bool) -> list[str]:
        """Run by the kernels of `tinygpt.kernels` where there are some, or by autograd alone.

        The runtime calls it when it has placed the model.  Returns what autograd computes although
        `on` is True, and why, each in a few words.  The default model has no use for kernels.
        """
        return ["the model (it has no kernels)"] if on else []


def _role(name: str, parameter: Tensor, kind: type[nn.Module] | None) -> Role:
    if kind is not None:
        return Role.EMBEDDING if issubclass(kind, nn.Embedding) else Role.NORM
    if parameter.dim() >= 2:
        return Role.HIDDEN
    return Role.BIAS if name.rpartition(".")[2] == "bias" else Role.SCALAR


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models that are built within have shapes and no memory: they are on the meta device."""
    with torch.device("meta"), _NoRandomNumbers():
        yield


class _NoRandomNumbers(TorchFunctionMode):
    """Skips random initialization, for which PyTorch imports its compiler on the meta device.

    That import takes 3 s, which is half of a short run.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def activation_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between this forward and its backward, without the parameters.

    It holds for any model and for whichever kernels run; on meta tensors it costs no memory.
    """
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # by storage: several saved tensors may share one

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
