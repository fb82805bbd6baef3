"""What the model writes: whether stories end, repeat, copy, and keep to their names."""

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
class GenerationConfig(EvaluationConfig):
    """Measures of generated stories, each beside the same measure of held-out stories."""

    version: ClassVar[int] = 2
    # see experiments/evaluation
    headlines: ClassVar[tuple[str, ...]] = ("distance_1grams", "distance_2grams", "grammar_lints")
    optional: ClassVar[tuple[str, ...]] = ("harper-py",)  # checks grammar
    name: str = "generation"
    samples: int = 64  # stories that are written and measured
    prompt_words: int = 6  # first words of a held-out story that each begins with; 0 for none
    temperature: float = 0.8
    top_k: int | None = None
    # a story that has not ended by then has no end; null: 99 % of held-out stories are shorter
    max_new_tokens: int | None = None
    seed: int = 0
    copy_tokens: int = 20_000_000  # training tokens that copies are looked for in

    def __post_init__(self) -> None:
        check_range("generation.samples", self.samples, low=2, high=100_000)
        check_range("generation.prompt_words", self.prompt_words, low=0, high=1000)
        check_range("generation.temperature", self.temperature, low=0)
        check_range("generation.top_k", self.top_k, low=1)
        check_range("generation.max_new_tokens", self.max_new_tokens, low=1, high=1_000_000)
        check_range("generation.seed", self.seed, low=0)
        check_range("generation.copy_tokens", self.copy_tokens, low=1, high=10**10)

    @property
    def documents(self) -> int:
        """Held-out stories that are read, from the beginning."""
        return max(self.samples, 500)

    def texts(self, subject: Subject) -> Mapping[str, str]:
        """See EvaluationConfig."""
        return subject.text_sha256(documents=self.documents)

    def run(self, subject: Subject) -> Findings:
        from tinygpt.evaluation.writing import measure

        return measure(self, subject)
