"""Leave out empty documents; refuse, repair or leave out documents that are not valid text."""

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
    """One pass over documents: the policy, and the number of documents left out so far."""

    policy: str = "error"
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "bad_text": 0})

    def not_empty(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts that hold more than white space."""
        for text in texts:
            if text and not text.isspace():
                yield text
            else:
                self.dropped["empty"] += 1

    def counted(self, *, here: bool) -> dict[str, int]:
        """The counts, or zeros if they belong to another split."""
        return dict(self.dropped) if here else dict.fromkeys(self.dropped, 0)

    def decode(self, data: bytes, *, path: object, offset: int) -> str | None:
        """The text of UTF-8 bytes at `offset` of the file; None if the document is left out."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            at = error.start
            place = f"{path} is not UTF-8: byte {offset + at} (0x{data[at]:02X})"
            self._refuse_or_count(f"{place} begins no character")
            if self.policy == "skip":
                return None
            text = data.decode(errors="replace")
        if "\0" in text:
            self._refuse_or_count(f"{path} is not text: byte {offset + data.index(0)} is NUL")
            return None if self.policy == "skip" else text.replace("\0", "\ufffd")
        return text

    def decode_part(self, data: bytes, *, path: object, offset: int) -> str:
        """`decode` for a part of a document, which is left out later, by `mended`."""
        if self.policy == "skip":
            return data.decode(errors="surrogateescape")
        return self.decode(data, path=path, offset=offset) or ""

    def mended(self, text: str, *, where: str) -> str | None:
        """The text, checked for half surrogate pairs and NULs; None if it is left out."""
        if "\0" in text:
            self._refuse_or_count(f"{where} has a NUL at character {text.index(chr(0))}")
            if self.policy == "skip":
                return None
            text = text.replace("\0", "\ufffd")
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

    def texts(self, column: Any, *, where: str, first_row: int) -> Iterator[str]:
        """The texts of an Arrow column of strings or of UTF-8 bytes; a null is an empty text."""
        try:
            values = column.to_pylist()
        except UnicodeDecodeError:
            import pyarrow as pa

            values = column.cast(pa.large_binary()).to_pylist()
        for row, value in enumerate(values, start=first_row):
            if isinstance(value, bytes):
                value = self.decode(value, path=f"{where} row {row}", offset=0)
            elif value and "\0" in value:
                value = self.mended(value, where=f"{where} row {row}")
            else:
                value = value or ""
            if value is not None:
                yield value

    def _refuse_or_count(self, problem: str) -> None:
        if self.policy == "error":
            raise UserError(
                f"{problem}; convert the file to UTF-8, or type dataset.on_bad_text=replace (by "
                "U+FFFD) or dataset.on_bad_text=skip (leaves the document out and counts it)"
            )
        if self.policy == "skip":
            self.dropped["bad_text"] += 1
