"""Feed-forward layers.  C d_model, F d_ff."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F


def relu2(x: Tensor) -> Tensor:
    """ReLU, squared: So et al. 2021, "Primer" (arXiv 2109.08668), section 4.1."""
    return F.relu(x).square()


# Hendrycks and Gimpel 2016, "Gaussian Error Linear Units" (arXiv 1606.08415), section 2: GPT-2 has
# the approximation by tanh, nanoGPT (karpathy/nanoGPT, model.py) the exact form by erf
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": partial(F.gelu, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu2": relu2,
}


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(
        self, *, d_model: int, d_ff: int, activation: str, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.activation = _ACTIVATIONS[activation]
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) to what is added to it."""
        y = self.down(self.activation(self.up(x)))
        return F.dropout(y, self.dropout, self.training)


class SwiGLU(nn.Module):
    """A linear layer gated by another one through SiLU, and a third one back.

    Shazeer 2020, "GLU Variants Improve Transformer" (arXiv 2002.05202), equation 6.
    """

    def __init__(self, *, d_model: int, d_ff: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) to what is added to it."""
        y = self.down(F.silu(self.gate(x)) * self.up(x))
        return F.dropout(y, self.dropout, self.training)
