"""Which of two texts the model finds likelier, where one is right: made from held-out stories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import check_range
from tinygpt.interfaces import EvaluationConfig, Findings
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject


@register("evaluation")
@dataclass
class ChoicesConfig(EvaluationConfig):
    """Shares of right choices, a half for chance: endings, names, pronouns, grammar, order."""

    version: ClassVar[int] = 2
    headlines: ClassVar[tuple[str, ...]] = ("mean", "object")  # see experiments/evaluation
    name: str = "choices"
    items: int = 150  # of each kind, at most; more narrows the intervals
    documents: int = 2000  # validation documents that items are made from, at most
    seed: int = 0  # another seed makes other items

    def __post_init__(self) -> None:
        check_range("choices.items", self.items, low=1, high=1_000_000)
        check_range("choices.documents", self.documents, low=2, high=10_000_000)
        check_range("choices.seed", self.seed, low=0)

    def texts(self, subject: Subject) -> Mapping[str, str]:
        """See EvaluationConfig."""
        return subject.text_sha256(documents=self.documents)

    def run(self, subject: Subject) -> Findings:
        from tinygpt.evaluation.scoring import score_choices

        return score_choices(self, subject)
