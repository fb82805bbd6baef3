"""A model on several ranks: a copy on each (DDP), or spread over all of them (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from tinygpt.hardware.ranks import Ranks
from tinygpt.language_model import LanguageModel

# fp32 weights and gradients, and two moments of AdamW; activations come on top
STATE_BYTES_PER_PARAMETER = 16

Loss = Callable[[Tensor], Tensor]


class MeanGradients:
    """A loss whose gradients are means over all ranks after the last micro step.

    For copies of a model, DDP averages them while the backward still runs.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, copies: bool) -> None:
        self._loss: Loss = loss
        self._not_yet: Callable[[], AbstractContextManager[None]] = nullcontext
        if copies:
            from torch.nn.parallel import DistributedDataParallel

            copy = DistributedDataParallel(_AsModule(model, loss), gradient_as_bucket_view=True)
            self._loss, self._not_yet = copy, copy.no_sync

    def __call__(self, tokens: Tensor) -> Tensor:
        """The loss on this rank."""
        return self._loss(tokens)

    def micro_step(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of a forward and its backward; copies exchange gradients in the last one."""
        return nullcontext() if last else self._not_yet()


class _AsModule(nn.Module):
    """A function of a model's weights as a module, since DDP wraps modules."""

    def __init__(self, model: nn.Module, function: Loss) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, tokens: Tensor) -> Tensor:
        return self.function(tokens)


def spread(model: LanguageModel, *, device_type: str, size: int, blocks_in_bf16: bool) -> None:
    """Shard every weight over the ranks, in place, on the device (FSDP2).

    Only one block at a time is whole: it is gathered before its forward and its backward.
    Weights, gradients and the optimizer stay fp32; `blocks_in_bf16` gathers half as many bytes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = init_device_mesh(device_type, (size,))
    in_blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if blocks_in_bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # the residual stream stays fp32, as on one device
    )
    # inner modules first, so that each weight belongs to the smallest unit that has it
    for unit in reversed(model.units()):
        fully_shard(unit, mesh=mesh, mp_policy=in_blocks, reshard_after_forward=True)
    # the root's default is not to reshard, which would leave weights whole after an evaluation
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if type(model).loss is not LanguageModel.loss:  # it uses weights as `forward` does
        register_fsdp_forward_method(model, "loss")


@contextmanager
def whole_on_main(model: nn.Module) -> Iterator[None]:
    """Context in which the main rank uses the model alone while the others wait.

    A sharded model is gathered on every rank for that time, in the type that its blocks use.
    """
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; if it is sharded, every rank must call this."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def is_spread(tensor: Tensor) -> bool:
    """Whether the tensor is sharded over ranks."""
    return hasattr(tensor, "full_tensor")


def handed_out(value: Tensor, like: Tensor, ranks: Ranks) -> Tensor:
    """Broadcast the main rank's value, or shard it if `like` is sharded and of the same shape.

    The other ranks pass an empty tensor of the same shape and type.
    """
    if ranks.size == 1:
        return value
    value = value.to(like.device)
    if is_spread(like) and value.shape == like.shape:
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(like, DTensor)
        return distribute_tensor(value, like.device_mesh, like.placements)
    torch.distributed.broadcast(value, 0)
    return value
