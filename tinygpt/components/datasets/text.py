"""Local text in .txt, .jsonl, .csv, .tsv and .parquet: a file, a folder or a pattern."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tinygpt.components.datasets.reading import amounts, holdout, local_files, readers, sieve
from tinygpt.components.datasets.reading.compressed import COMPRESSIONS, split_ending
from tinygpt.components.datasets.reading.parquet_files import ParquetFile, ParquetRows
from tinygpt.components.datasets.reading.sieve import Sieve
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import DatasetConfig, Split, TextSource
from tinygpt.registry import register


@register("dataset")
@dataclass
class TextConfig(DatasetConfig):
    """Local UTF-8 files, read unchanged; blank documents are left out."""

    name: str = "text"
    path: str = MISSING  # a file, a folder, or a pattern like 'data/**/*.jsonl.gz'
    text_column: str = "text"  # in all formats but .txt: one row is one document
    # between documents of a .txt; null: a file is one document.  One of more than 4 MiB is cut
    separator: str | None = None
    on_bad_text: str = "error"  # if not UTF-8: error, replace (by U+FFFD) or skip (the document)
    fraction: float = 1.0  # trains on this first part of the documents; validation stays the same
    max_documents: int | None = (
        None  # trains on this many of the first documents; instead of a fraction
    )
    # documents held out by their hash; of a single document, its last part
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        amounts.check(self.fraction, self.max_documents)
        check_range("dataset.validation_fraction", self.validation_fraction, above=0, below=1)
        sieve.check_policy(self.on_bad_text)
        if self.separator is not None:
            for typed, meant in ((r"\n", "\n"), (r"\r", "\r"), (r"\t", "\t")):
                self.separator = self.separator.replace(typed, meant)
            if not self.separator:
                raise UserError("dataset.separator='' separates nothing; type null or some text")

    def open(self) -> TextSource:
        """Raises UserError for a path without files that can be read, or a field without effect."""
        folder, files = local_files.chosen(self.path, readers.KINDS)
        kinds = {split_ending(file)[0] for file in files}
        if self.separator is not None and ".txt" not in kinds:
            raise UserError(
                f"dataset.separator={self.separator!r} would be ignored: it is for .txt, and "
                f"dataset.path={self.path} has {', '.join(sorted(kinds))}; leave it out"
            )
        if self.text_column != "text" and kinds == {".txt"}:
            raise UserError(
                f"dataset.text_column={self.text_column} would be ignored: "
                f"dataset.path={self.path} has only .txt, which has no columns; leave it out"
            )
        source = TextFiles(self, folder, files)
        if self.max_documents is not None and source.is_one:
            raise source.too_few(self.max_documents)
        return source


class TextFiles(TextSource):
    """The documents of some files, in the order of the files' names."""

    def __init__(self, cfg: TextConfig, folder: Path, files: list[Path]) -> None:
        self.cfg = cfg
        self.folder = folder
        self.files = files
        self.is_one = (  # one document, for any content of the file
            len(files) == 1 and split_ending(files[0])[0] == ".txt" and cfg.separator is None
        )
        self._length_of_one: int | None = None  # characters of a single document
        self._dropped: dict[Split, dict[str, int]] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The names and contents of the files; their folder does not count."""
        return {
            "files": local_files.digests(self.folder, self.files),
            "text_column": self.cfg.text_column,
            "separator": self.cfg.separator,
            "on_bad_text": self.cfg.on_bad_text,
            "fraction": self.cfg.fraction,
            "max_documents": self.cfg.max_documents,
            "validation_fraction": self.cfg.validation_fraction,
        }

    def provenance(self) -> dict[str, Any]:
        """The path from which the files were read."""
        return {"path": str(self.folder.absolute())}

    def utf8_bytes_estimate(self) -> int | None:
        """Estimated from the sizes of the files; compressed ones are assumed to be English."""
        cfg = self.cfg
        if cfg.max_documents is not None:  # their length is not known
            return None
        kept = cfg.validation_fraction + cfg.fraction * (1 - cfg.validation_fraction)
        return round(kept * sum(map(self._text_bytes, self.files)))

    def dropped(self, split: Split) -> dict[str, int]:
        return self._dropped.get(split, {})

    def too_few(self, max_documents: int) -> UserError:
        """The error for a limit on the number of documents if there is only one document."""
        return UserError(
            f"dataset.max_documents={max_documents} would be ignored: dataset.path={self.cfg.path} "
            "is one document; type dataset.fraction=0.1, or dataset.separator=TEXT to separate it"
        )

    def documents(self, split: Split) -> Iterator[str]:
        """Raises UserError for a file that cannot be read and for a split without text."""
        if not self._separated:
            raise UserError(
                f"dataset.separator={self.cfg.separator!r} is nowhere in the .txt files of "
                f"dataset.path={self.cfg.path}; mind the line ends, \\n or \\r\\n"
            )
        sieve = Sieve(self.cfg.on_bad_text)
        if self.is_one:
            yield from self._part_of_one(split, self._read, sieve)
        else:
            yield from self._part_of_many(split, sieve)
        self._dropped[split] = sieve.counted(here=split == "train")

    def _part_of_many(self, split: Split, sieve: Sieve) -> Iterator[str]:
        cfg = self.cfg
        documents = sieve.not_empty(self._read(sieve))
        start = list(islice(documents, 2))
        if not start:
            raise UserError(f"dataset.path={cfg.path} holds no text")
        if len(start) == 1:
            if cfg.max_documents is not None:
                raise self.too_few(cfg.max_documents)
            yield from self._part_of_one(split, lambda _: iter(start), sieve)
            return
        documents = chain(start, documents)
        part_of_train = split == "train" and cfg.fraction < 1
        documents = holdout.part(
            documents,
            split,
            validation_fraction=cfg.validation_fraction,
            train_among=amounts.first(self._n_read, cfg.fraction) if part_of_train else None,
        )
        yield from islice(documents, cfg.max_documents if split == "train" else None)

    def _part_of_one(
        self, split: Split, read: Callable[[Sieve], Iterator[str]], sieve: Sieve
    ) -> Iterator[str]:
        """The part of a single document in a split: its last characters are held out."""
        cfg = self.cfg
        length, blank = self._length_of_one, False
        if length is None:
            length, blank = 0, True
            for piece in read(Sieve(cfg.on_bad_text)):
                length += len(piece)
                blank = blank and (not piece or piece.isspace())
        if blank:
            raise UserError(f"dataset.path={cfg.path} holds no text")
        self._length_of_one = length
        cut = int(length * (1 - cfg.validation_fraction))
        start, stop = (0, int(cut * cfg.fraction)) if split == "train" else (cut, length)
        blank = True
        position = 0
        for piece in read(sieve):
            text = piece[max(0, start - position) : max(0, stop - position)]
            position += len(piece)
            if text and not text.isspace():
                blank = False
                yield text
        if blank:
            raise UserError(
                f"dataset.validation_fraction={cfg.validation_fraction} with "
                f"dataset.fraction={cfg.fraction} leaves no text for {split} of "
                f"dataset.path={cfg.path}, which is one document of {length} "
                "characters; change one of them or give it more text"
            )

    def _read(self, sieve: Sieve) -> Iterator[str]:
        """All documents, including empty ones, before they are divided into splits."""
        cfg = self.cfg
        for path in self.files:
            yield from readers.read(
                path, text_column=cfg.text_column, separator=cfg.separator, sieve=sieve
            )

    @cached_property
    def _n_read(self) -> int:
        sieve = Sieve(self.cfg.on_bad_text)
        return sum(1 for _ in sieve.not_empty(self._read(sieve)))

    @cached_property
    def _separated(self) -> bool:
        """Whether the separator, if set, occurs in the files."""
        separator = self.cfg.separator
        texts = (path for path in self.files if split_ending(path)[0] == ".txt")
        return separator is None or any(readers.contains(path, separator) for path in texts)

    def _text_bytes(self, path: Path) -> int:
        kind, compression = split_ending(path)
        if kind == ".parquet":
            return ParquetRows([ParquetFile(path, self.cfg.text_column)]).text_bytes(0, None)
        return round(path.stat().st_size * COMPRESSIONS.get(compression, 1))
