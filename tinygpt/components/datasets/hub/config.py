"""Any text dataset of the Hugging Face hub, or a local copy of one in the hub's layout."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tinygpt.components.datasets.hub.source import HubSource
from tinygpt.components.datasets.reading import amounts, local_files, sieve
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import DatasetConfig
from tinygpt.registry import register


@register("dataset")
@dataclass
class HubConfig(DatasetConfig):
    """A repo of the hub, by its name. Of parquet files only the needed row groups are loaded."""

    # UTF-8 bytes of all rows to train on; known for presets unless a field picks other rows
    train_bytes: ClassVar[int | None] = None
    _enough_for = 0  # tokens for which `settled` chose the fraction; not a field

    name: str = "hub"
    repo: str | None = None  # OWNER/NAME
    path: str | None = None  # a local folder with the layout of the repo, read instead of the hub
    subset: str | None = None  # one of the repo's configs; null uses its default
    revision: str = "main"  # branch, tag or commit; branches and tags can change
    text_column: str = "text"  # one row is one document; blank documents are left out
    on_bad_text: str = "error"  # if not UTF-8: error, replace (by U+FFFD) or skip (the document)
    train_split: str = "train"
    train_rows: str | None = None  # START:STOP, counted from 0; null uses the whole split
    validation_split: str | None = "validation"  # null holds out a part of the training documents
    validation_rows: str | None = None
    # trains on this first part of the rows; auto, for presets: enough for the run's tokens
    fraction: int | float | str = 1.0
    max_documents: int | None = None  # trains on this many of the first rows; instead of a fraction
    validation_fraction: float = 0.05  # held out by hash if there is no validation split

    def __post_init__(self) -> None:
        self._check_fraction()
        check_range("dataset.validation_fraction", self.validation_fraction, above=0, below=1)
        sieve.check_policy(self.on_bad_text)
        train = amounts.rows("dataset.train_rows", self.train_rows)
        validation = amounts.rows("dataset.validation_rows", self.validation_rows)
        if self.repo is None and self.path is None:
            raise UserError(
                "dataset.repo is missing; type dataset.repo=OWNER/NAME, "
                "or dataset.path=FOLDER for a local copy"
            )
        if self.path is not None and self.revision != "main":
            raise UserError(
                f"dataset.revision={self.revision} would be ignored: "
                f"dataset.path={self.path} is read as it is; leave one of them out"
            )
        if self.validation_split is None and self.validation_rows is not None:
            raise UserError(
                f"dataset.validation_rows={self.validation_rows} would be ignored, as "
                "dataset.validation_split=null holds out a part of train; leave one of them out"
            )
        if self.train_split == self.validation_split and amounts.overlap(train, validation):
            raise UserError(
                f"dataset.validation_split={self.validation_split} is the train split; type "
                "dataset.validation_split=null to hold out a part of it, or dataset.train_rows "
                "and dataset.validation_rows that have no row in common"
            )

    def _check_fraction(self) -> None:
        if self.fraction != "auto":
            self.fraction = amounts.number(self.fraction, auto=self.train_bytes is not None)
            amounts.check(self.fraction, self.max_documents)
        elif self.train_bytes is None:
            raise UserError(
                "dataset.fraction=auto needs a dataset whose size is known, such as tiny_stories; "
                "type a number above 0 and at most 1"
            )
        elif self._size is None:
            self.fraction = 1.0  # of the picked rows, or of a local copy

    @property
    def _size(self) -> int | None:
        """UTF-8 bytes of the rows to train on, if no field changes the preset's rows."""
        picked = ("repo", "path", "subset", "train_split", "train_rows", "max_documents")
        is_preset = all(getattr(self, name) == getattr(type(self), name) for name in picked)
        return self.train_bytes if is_preset else None

    def settled(self, *, tokens: int | None, bytes_per_token: float) -> "HubConfig":
        """Replace `fraction=auto` by a number: 1 if the number of the run's tokens is not known."""
        if self.fraction != "auto" or self._size is None:
            return self
        if tokens is None:
            return replace(self, fraction=1.0)
        kept = 1.0 if self.validation_split else 1 - self.validation_fraction
        needed = tokens * bytes_per_token / (kept * self._size)
        chosen = replace(self, fraction=amounts.enough(needed))
        chosen._enough_for = tokens
        return chosen

    def amount(self) -> str:
        """One line: the part of the repo to train on, its size if known, how to change it."""
        if self.path is not None:
            return ""
        part, other_way = f"{100 * float(self.fraction):g} %", "dataset.fraction=1 takes all of it"
        if self.fraction == 1:
            part, other_way = "all", "dataset.fraction=0.1 takes a tenth"
        if self.max_documents is not None:
            part, other_way = f"{self.max_documents:,} documents", ""
        size = f" (about {float(self.fraction) * self._size / 1e6:,.0f} MB)" if self._size else ""
        reason = f", enough for {self._enough_for:,} tokens" if self._enough_for else ""
        said = f"training text: {part} of {self.repo}{size}{reason}"
        return "; ".join(
            filter(None, [said, "what the local cache lacks is downloaded", other_way])
        )

    def open(self) -> HubSource:
        """Checks the folder, if one is set; the text is loaded when it is read."""
        if self.path is None:
            assert self.repo is not None
            if Path(self.repo).exists():
                raise UserError(
                    f"dataset.repo={self.repo} is a file or folder here; "
                    f"type dataset.path={self.repo} to read it"
                )
        elif not local_files.existing(self.path).is_dir():
            raise UserError(
                f"dataset.path={self.path} is a file, and here it must be a folder in the hub's "
                f"layout; type dataset=text dataset.path={self.path} to read one file"
            )
        return HubSource(replace(self, fraction=1.0) if self.fraction == "auto" else self)
