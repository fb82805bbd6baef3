"""Choices while a run trains: the cheap part of `tinygpt.evaluate`, at every evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tinygpt.errors import check_range
from tinygpt.interfaces import Callback, CallbackConfig, CallbackContext, Metrics
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.evaluation.minimal_pairs import Item
    from tinygpt.training.state import TrainState


@register("callback")
@dataclass
class EvaluateConfig(CallbackConfig):
    """Shares of right choices, logged as choices/KIND with each evaluation."""

    name: str = "evaluate"
    items: int = 20  # of each kind; each costs two forwards of a document
    seed: int = 0  # another seed makes other items

    def __post_init__(self) -> None:
        check_range("callback.evaluate.items", self.items, low=1, high=100_000)
        check_range("callback.evaluate.seed", self.seed, low=0)

    def build(self, context: CallbackContext) -> Evaluate:
        return Evaluate(self, context)


class Evaluate(Callback):
    """Scores the same items each time; leaves the state of training unchanged."""

    def __init__(self, config: EvaluateConfig, context: CallbackContext) -> None:
        self.config, self.context = config, context

    @cached_property
    def items(self) -> Mapping[str, Sequence[Item]]:
        """The items of each kind; none in text that is no English story."""
        from tinygpt.evaluation import minimal_pairs

        documents = self.context.documents(10 * self.config.items)
        return minimal_pairs.build(documents, items=self.config.items, seed=self.config.seed)

    def on_eval(self, state: TrainState, metrics: Metrics) -> str | None:
        from tinygpt.evaluation.scoring import compare_all, n_right
        from tinygpt.evaluation.subject import Scorer

        scorer = Scorer(state.model, self.context.tokenizer, seq_len=self.context.seq_len)
        was_training = state.model.training
        state.model.eval()
        for kind, items in self.items.items():
            metrics[f"choices/{kind}"] = n_right(compare_all(scorer, items)) / len(items)
        if self.items:
            shares = [metrics[f"choices/{kind}"] for kind in self.items]
            metrics["choices/mean"] = sum(shares) / len(shares)
        state.model.train(was_training)
        return None
