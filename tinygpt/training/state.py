"""TrainState: everything that changes while training, and so everything that a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tinygpt.language_model import LanguageModel


@dataclass
class TrainState:
    """What a resume needs, each a field.

    The learning rate, the order of the data and the random numbers of a step are functions of
    (seed, step), so they are not here.
    """

    model: LanguageModel  # the plain one, also when a compiled one runs
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: dict[str, Tensor] = field(default_factory=dict)  # averages by parameter; {}: none
    ema_updates: int = 0  # in these averages
    step: int = 0  # optimizer updates completed
    tokens: int = 0  # trained on so far
    elapsed_s: float = 0.0  # wall clock inside the loop, resumed parts added up
    best_bpb: float | None = None  # lowest val/bpb so far
    best_step: int | None = None
    best_bpb_ema: float | None = None  # of the averaged weights
    best_step_ema: int | None = None
    loss_sum: float = 0.0  # of the steps since the last logged row
    loss_count: int = 0
    last_eval: dict[str, float] = field(default_factory=dict)  # val/loss, val/bpb, ...
    stop_reason: str | None = None  # why a callback ended the run before its horizon
    rows_logged: int = 0
    timed_steps: int = 0  # steps that the logged rows cover, and their seconds of training
    timed_s: float = 0.0
    peak_mem_bytes: int | None = None
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)  # their memories, by name
