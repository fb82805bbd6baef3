"""A gated linear recurrence.  B batch, T time, C d_model, S d_state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinygpt.kernels import fuses
from tinygpt.kernels.formulas import scan
from tinygpt.kernels.stream import recur


class MinGRULayer(nn.Module):
    """h_t = (1 - z_t) h_(t-1) + z_t g(c_t), where gate z and candidate c do not see h.

    Feng et al. 2024, "Were RNNs All We Needed?" (arXiv 2410.01201), section 3.1 and appendix B:
    z is a sigmoid, and g(c) is c + 0.5 where c >= 0 and sigmoid(c) elsewhere, so h stays positive.
    """

    def __init__(self, *, d_model: int, d_state: int) -> None:
        super().__init__()
        self.d_state = d_state
        self.uses_kernels = False
        self.gate_candidate = nn.Linear(d_model, 2 * d_state)
        self.out = nn.Linear(d_state, d_model)

    def forward(
        self, x: Tensor, state: Tensor | None = None, begins: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C) to what is added to it, and the state (B, S) after it; `state` is before it.

        The state is forgotten where `begins` (B, T) is True.  All positions are computed at once.
        """
        rows = self.gate_candidate(x)
        if self.uses_kernels and state is None and fuses(x):
            h = recur(rows, None if begins is None else begins.long())
            return self.out(h.to(x.dtype)), h[:, -1]
        # a product of many factors needs more digits than bfloat16 has
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        gate, candidate = rows.chunk(2, -1)  # (B, T, S) each
        value = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        kept = (-gate).sigmoid()
        if begins is not None:
            kept = kept.masked_fill(begins[..., None], 0.0)
        h = scan(kept, gate.sigmoid() * value, state)
        return self.out(h.to(x.dtype)), h[:, -1]
