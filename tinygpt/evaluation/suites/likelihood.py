"""How well the model predicts held-out text: bits per byte, and where they are spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import UserError, check_path, check_range
from tinygpt.interfaces import EvaluationConfig, Findings
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject


@register("evaluation")
@dataclass
class LikelihoodConfig(EvaluationConfig):
    """Bits per byte of the validation split, by place, by frequency and by document."""

    version: ClassVar[int] = 1
    headlines: ClassVar[tuple[str, ...]] = (  # see experiments/evaluation
        *("bpb", "bpb_split", "nats_per_token", "nats_at/1-32", "nats_at/33-128", "nats_at/129+"),
        *("nats_of/usual", "nats_of/common"),
    )
    name: str = "likelihood"
    on: str | None = None  # a UTF-8 text file that is scored as well, as one document
    # tokens of context that a window repeats: 0 is training's protocol, more gives a lower number
    overlap: int = 0
    show: int = 3  # documents with the fewest and the most bits per byte to keep as examples

    def __post_init__(self) -> None:
        check_range("likelihood.overlap", self.overlap, low=0, high=1_000_000)
        check_range("likelihood.show", self.show, low=0, high=1000)
        check_path("likelihood.on", self.on)

    def check(self) -> None:
        """See EvaluationConfig."""
        self.text()

    def files(self) -> Sequence[Path]:
        """See EvaluationConfig."""
        return [] if self.on is None else [Path(self.on).expanduser()]

    def text(self) -> str | None:
        """The content of the file; raises UserError if it cannot be read or holds nothing."""
        if self.on is None:
            return None
        try:
            text = Path(self.on).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"likelihood.on={self.on} cannot be read: {reason}") from None
        if not text:
            raise UserError(f"likelihood.on={self.on} is empty; name a file with text")
        return text

    def run(self, subject: Subject) -> Findings:
        from tinygpt.evaluation.bits import measure

        return measure(self, subject)
