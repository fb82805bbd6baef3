"""The user's own text: .txt, .jsonl, .csv and .parquet, one file or a folder of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tinygpt.datasets import holdout, local_files
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import DatasetConfig, Split, TextSource
from tinygpt.registry import register

ENDINGS = (".txt", ".jsonl", ".csv", ".parquet")


@register("dataset")
@dataclass
class TextConfig(DatasetConfig):
    """Files that are already here; UTF-8, read as they are, blank documents left out."""

    name: str = "text"
    path: str = MISSING  # a file, or a folder whose files are read in the order of their names
    text_column: str = "text"  # of .jsonl, .csv and .parquet: one row is one document
    separator: str | None = None  # between documents of a .txt; null: one file is one document
    fraction: float = 1.0  # first part of the documents to train on; validation stays the same
    # held out of the documents by their hash; of a single document, its last part
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_range("dataset.fraction", self.fraction, above=0, high=1)
        check_range("dataset.validation_fraction", self.validation_fraction, above=0, below=1)
        if self.separator is not None:
            for typed, meant in ((r"\n", "\n"), (r"\r", "\r"), (r"\t", "\t")):
                self.separator = self.separator.replace(typed, meant)
            if not self.separator:
                raise UserError("dataset.separator='' separates nothing; type null or some text")

    def open(self) -> TextSource:
        """Raises UserError for a path without files that can be read, or a field without effect."""
        path = local_files.existing(self.path)
        if path.is_dir():
            folder, files = path, local_files.files_in(path, ENDINGS)
        else:
            folder, files = path.parent, [path] if path.suffix.lower() in ENDINGS else []
        if not files:
            raise UserError(
                f"dataset.path={self.path} has no file that can be read; "
                f"endings that are read: {', '.join(ENDINGS)}"
            )
        endings = {file.suffix.lower() for file in files}
        if self.separator is not None and ".txt" not in endings:
            raise UserError(
                f"dataset.separator={self.separator!r} would be ignored: it is for .txt, and "
                f"dataset.path={self.path} has {', '.join(sorted(endings))}; leave it out"
            )
        if self.text_column != "text" and endings == {".txt"}:
            raise UserError(
                f"dataset.text_column={self.text_column} would be ignored: "
                f"dataset.path={self.path} has only .txt, which has no columns; leave it out"
            )
        return TextFiles(self, folder, files)


class TextFiles(TextSource):
    """Documents of files, in the order of the files' names."""

    def __init__(self, cfg: TextConfig, folder: Path, files: list[Path]) -> None:
        self.cfg = cfg
        self.folder = folder
        self.files = files

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Contents and names of the files, not where they stand."""
        return {
            "files": local_files.digests(self.folder, self.files),
            "text_column": self.cfg.text_column,
            "separator": self.cfg.separator,
            "fraction": self.cfg.fraction,
            "validation_fraction": self.cfg.validation_fraction,
        }

    def provenance(self) -> dict[str, Any]:
        """Where the files stood when they were read."""
        return {"path": str(self.folder.absolute())}

    def documents(self, split: Split) -> Iterator[str]:
        """Raises UserError for a file that cannot be read and for a split without text."""
        documents = self._read()
        start = list(islice(documents, 2))
        if not start:
            raise UserError(f"dataset.path={self.cfg.path} holds no text")
        if len(start) == 1:
            yield self._part_of_one(start[0], split)
            return
        documents = chain(start, documents)
        if split == "train" and self.cfg.fraction < 1:
            documents = islice(documents, max(1, round(self.cfg.fraction * self._n_read)))
        validation_fraction = self.cfg.validation_fraction
        yield from holdout.part(documents, split, validation_fraction=validation_fraction)

    @cached_property
    def _n_read(self) -> int:
        return sum(1 for _ in self._read())

    def _part_of_one(self, document: str, split: Split) -> str:
        """One document cannot be held out, so its last lines are."""
        cut = _line_start(document, round(len(document) * (1 - self.cfg.validation_fraction)))
        if split == "validation":
            text = document[cut:]
        else:
            text = document[: _line_start(document, round(cut * self.cfg.fraction))]
        if not text or text.isspace():
            raise UserError(
                f"dataset.validation_fraction={self.cfg.validation_fraction} with "
                f"dataset.fraction={self.cfg.fraction} leaves no text for {split} of "
                f"dataset.path={self.cfg.path}, which is one document of {len(document)} "
                "characters; change one of them or give it more text"
            )
        return text

    def _read(self) -> Iterator[str]:
        """All documents that are not blank, before they are split."""
        separator = self.cfg.separator
        separated = separator is None
        for path in self.files:
            n = 0
            for text in local_files.read(
                path, text_column=self.cfg.text_column, separator=separator
            ):
                n += 1
                if text and not text.isspace():
                    yield text
            separated |= path.suffix.lower() == ".txt" and n > 1
        if not separated:
            raise UserError(
                f"dataset.separator={separator!r} is nowhere in the .txt files of "
                f"dataset.path={self.cfg.path}; mind the line ends, \\n or \\r\\n"
            )


def _line_start(text: str, position: int) -> int:
    """The start of the line at `position`, unless that is less than half as far."""
    return text.rfind("\n", position // 2, position) + 1 or position
