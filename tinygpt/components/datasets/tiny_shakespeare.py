"""Tiny Shakespeare: 1.1 MB of plays; the first 90 % train, the last 10 % are for validation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.components.datasets.hub.source import HubSource
from tinygpt.components.datasets.reading import local_files
from tinygpt.components.datasets.reading.compressed import opened
from tinygpt.errors import UserError
from tinygpt.interfaces import DatasetConfig, Split, TextSource
from tinygpt.registry import register

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of input.txt
_BYTES = 1_115_394
_FILE = "input.txt"
_PARTS = ("train", "validation", "test")  # of the repo: 90, 5 and 5 % of the characters


@register("dataset")
@dataclass
class TinyShakespeareConfig(DatasetConfig):
    """One document, which is checked by its checksum."""

    name: str = "tiny_shakespeare"
    path: str | None = None  # input.txt, or its folder; null downloads it from the hub
    repo: str = "karpathy/tiny_shakespeare"
    revision: str = "main"

    def __post_init__(self) -> None:
        if self.path is not None and self.revision != "main":
            raise UserError(
                f"dataset.revision={self.revision} would be ignored: "
                f"dataset.path={self.path} is read as it is; leave one of them out"
            )

    def open(self) -> TextSource:
        if self.path is None:
            return TinyShakespeare(self, None)
        path = local_files.existing(self.path)
        if path.is_dir():
            path = local_files.existing(str(path / _FILE))
        if path.is_dir():
            raise UserError(f"{path} is a folder and must be the text; type dataset.path=FILE")
        return TinyShakespeare(self, path)


class TinyShakespeare(TextSource):
    """The text in memory, cut at the usual places."""

    def __init__(self, cfg: TinyShakespeareConfig, file: Path | None) -> None:
        self.cfg = cfg
        self.file = file
        self._repo = HubSource(HubConfig(repo=cfg.repo, revision=cfg.revision))

    @property
    def identity(self) -> dict[str, Any]:
        return {"sha256": SHA256}

    def provenance(self) -> dict[str, Any]:
        if self.file:
            return {"source": str(self.file.absolute())}
        return {"source": self.cfg.repo, **self._repo.rows.provenance}

    def documents(self, split: Split) -> Iterator[str]:
        """One document; raises UserError if the text cannot be read or its checksum differs."""
        cut = int(0.9 * len(self._text))
        yield self._text[:cut] if split == "train" else self._text[cut:]

    def n_documents(self, split: Split) -> int:
        return 1

    def utf8_bytes_estimate(self) -> int:
        return _BYTES

    @cached_property
    def _text(self) -> str:
        cfg = self.cfg
        data = self._from_file(self.file) if self.file else "".join(self._from_hub()).encode()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != SHA256:
            where = f"dataset.path={cfg.path}" if self.file else f"dataset.repo={cfg.repo}"
            raise UserError(
                f"{where} is not the text of tiny_shakespeare: {len(data):,} bytes, sha256 "
                f"{sha256[:12]}, where it has {_BYTES:,}, {SHA256[:12]}; "
                "to read any text type dataset=text dataset.path=FILE"
            )
        return data.decode()

    @staticmethod
    def _from_file(path: Path) -> bytes:
        with opened(path) as file:
            return file.read()

    def _from_hub(self) -> Iterator[str]:
        rows = self._repo.rows
        for split in _PARTS:
            for _, _, column in rows.read(split, 0, rows.n_rows(split)):
                yield from column.to_pylist()
