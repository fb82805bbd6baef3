"""What is left out of a source: empty documents, and those in a broken encoding unless mended."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tinygpt.errors import UserError, check_choice

POLICIES = ("error", "replace", "skip")


def check_policy(on_bad_text: str) -> None:
    """Raise UserError unless it is a policy."""
    check_choice("dataset.on_bad_text", on_bad_text, POLICIES)


@dataclass
class Sieve:
    """One pass over documents: the policy, and how many of them it left out so far."""

    policy: str = "error"
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "bad_text": 0})

    def not_empty(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts that are more than white space."""
        for text in texts:
            if text and not text.isspace():
                yield text
            else:
                self.dropped["empty"] += 1

    def counted(self, *, here: bool) -> dict[str, int]:
        """What was dropped, unless it counts for another split."""
        return dict(self.dropped) if here else dict.fromkeys(self.dropped, 0)

    def decode(self, data: bytes, *, path: object, offset: int) -> str | None:
        """The text of UTF-8 bytes that stand at `offset` of the file; None if they are skipped."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            at = error.start
            place = f"{path} is not UTF-8: byte {offset + at} (0x{data[at]:02X})"
            self._refuse_or_count(f"{place} begins no character")
        return data.decode(errors="replace") if self.policy == "replace" else None

    def decode_part(self, data: bytes, *, path: object, offset: int) -> str:
        """`decode` for a part of a document, which is skipped later, by `mended`."""
        if self.policy == "skip":
            return data.decode(errors="surrogateescape")
        return self.decode(data, path=path, offset=offset) or ""

    def mended(self, text: str, *, where: str) -> str | None:
        """A text whose half surrogate pairs, which are no characters, are dealt with."""
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self._refuse_or_count(f"{where} has half a surrogate pair at character {error.start}")
            if self.policy == "skip":
                return None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def texts(self, column: Any, *, where: str, first_row: int) -> list[str]:
        """The texts of an Arrow column of strings; a null is an empty one."""
        try:
            return [text or "" for text in column.to_pylist()]
        except UnicodeDecodeError:
            import pyarrow as pa

            texts = (
                self.decode(value or b"", path=f"{where} row {first_row + row}", offset=0)
                for row, value in enumerate(column.cast(pa.large_binary()).to_pylist())
            )
            return [text for text in texts if text is not None]

    def _refuse_or_count(self, problem: str) -> None:
        if self.policy == "error":
            raise UserError(
                f"{problem}; convert the file to UTF-8, or type dataset.on_bad_text=replace (by "
                "U+FFFD) or dataset.on_bad_text=skip (leaves the document out and counts it)"
            )
        if self.policy == "skip":
            self.dropped["bad_text"] += 1
