"""Grades of a larger model, by any server with OpenAI's chat API: costs money, never by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import EvaluationConfig, Findings
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject


@register("evaluation")
@dataclass
class JudgeConfig(EvaluationConfig):
    """Grammar, creativity and consistency of generated stories, of 10, by a model that you name."""

    version: ClassVar[int] = 1
    in_all: ClassVar[bool] = False
    name: str = "judge"
    url: str | None = None  # such as http://localhost:8000/v1; the key is in TINYGPT_JUDGE_KEY
    model: str | None = None  # the judge's name on that server
    samples: int = 20  # stories; each is one request
    prompt_words: int = 20  # first words of a held-out story that each continues
    temperature: float = 0.8  # of the stories; the judge has 0
    max_new_tokens: int = 300
    seed: int = 0
    timeout_s: float = 60.0  # for one answer

    def __post_init__(self) -> None:
        check_range("judge.samples", self.samples, low=1, high=10_000)
        check_range("judge.prompt_words", self.prompt_words, low=1, high=1000)
        check_range("judge.temperature", self.temperature, low=0)
        check_range("judge.max_new_tokens", self.max_new_tokens, low=1, high=100_000)
        check_range("judge.seed", self.seed, low=0)
        check_range("judge.timeout_s", self.timeout_s, above=0, high=3600)

    def check(self) -> None:
        """See EvaluationConfig."""
        if self.url is None or self.model is None:
            raise UserError(
                "suite=judge asks a server, and costs what it costs there; type judge.url=URL and "
                "judge.model=NAME, and put its key into the environment as TINYGPT_JUDGE_KEY"
            )
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise UserError(
                f"judge.url={self.url} is not the address of a server; type https://..."
            )

    def texts(self, subject: Subject) -> Mapping[str, str]:
        """See EvaluationConfig."""
        return subject.text_sha256(documents=self.samples)

    def run(self, subject: Subject) -> Findings:
        from tinygpt.evaluation.judging import measure

        return measure(self, subject)
