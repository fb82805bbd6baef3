"""Tokens to text as they are drawn: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence


class TextStream:
    """The text of one sequence.

    `add` takes the tokens one by one.  A token is released once no stop string can begin in it any
    more; its text then consists of the characters that it completes.  The texts of all tokens and
    of `finish`, one after another, are the text of the sequence.
    """

    def __init__(
        self, decode_bytes: Callable[[Iterable[int]], bytes], stop: Sequence[str] = ()
    ) -> None:
        self._decode_bytes = decode_bytes
        self._stop = [text.encode("utf-8", "surrogatepass") for text in stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._spelling: list[int] = []  # newest tokens, which make no byte yet
        self._lengths: deque[int] = deque()  # bytes of each token that is not released
        self._held = bytearray()  # their bytes
        self.stopped = False  # whether a stop string has come

    def add(self, token: int) -> list[str]:
        """Add a token; returns the texts of the oldest unreleased tokens that are released now."""
        self._spelling.append(token)
        data = self._decode_bytes(self._spelling)
        if data:
            self._spelling = []
        self._held += data
        self._lengths.append(len(data))
        end = self._first_stop()
        if end is not None:
            self.stopped = True
            del self._held[end:]
            return self._release(len(self._lengths))
        safe, n = len(self._held) - self._possible_stop(), 0
        for length in self._lengths:
            safe -= length
            if safe < 0:
                break
            n += 1
        return self._release(n)

    def finish(self) -> tuple[list[str], str]:
        """End the text: the texts of the unreleased tokens, and what is left.

        That is U+FFFD for a character without its last bytes, else "".
        """
        texts = self._release(len(self._lengths))
        return texts, self._decoder.decode(b"", final=True)

    def _release(self, n: int) -> list[str]:
        texts = []
        for _ in range(n):
            length = self._lengths.popleft()
            texts.append(self._decoder.decode(bytes(self._held[:length])))
            del self._held[:length]
        return texts

    def _first_stop(self) -> int | None:
        """Where the stop string begins that is complete first, in the held bytes; None if none."""
        found = []
        for text in self._stop:
            start = self._held.find(text)
            if start >= 0:
                found.append((start + len(text), start))
        return min(found)[1] if found else None

    def _possible_stop(self) -> int:
        """Length of the longest end of the held bytes that a stop string begins with."""
        longest = 0
        for text in self._stop:
            for length in range(min(len(text) - 1, len(self._held)), longest, -1):
                if self._held.endswith(text[:length]):
                    longest = length
                    break
        return longest
