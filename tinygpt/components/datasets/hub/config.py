"""Any text dataset of the Hugging Face hub, or a local copy of one in the hub's layout."""

from dataclasses import dataclass
from pathlib import Path

from tinygpt.components.datasets.hub.source import HubSource
from tinygpt.components.datasets.reading import amounts, local_files, sieve
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import DatasetConfig
from tinygpt.registry import register


@register("dataset")
@dataclass
class HubConfig(DatasetConfig):
    """A repo of the hub by its name.  Of parquet files only what is needed is downloaded."""

    name: str = "hub"
    repo: str | None = None  # OWNER/NAME
    path: str | None = None  # a folder laid out as the repo is; then the hub is not asked
    subset: str | None = None  # one of the repo's configs; null takes its default
    revision: str = "main"  # branch, tag or commit; only a commit never moves
    text_column: str = "text"  # one row is one document; blank ones are left out
    on_bad_text: str = "error"  # not UTF-8: error, replace (by U+FFFD), skip (the document)
    train_split: str = "train"
    train_rows: str | None = None  # START:STOP, counted from 0; null takes all of the split
    validation_split: str | None = "validation"  # null holds out a part of what is trained on
    validation_rows: str | None = None
    fraction: float = 1.0  # first part of the rows to train on
    max_documents: int | None = None  # so many rows to train on, the first; instead of a fraction
    validation_fraction: float = 0.05  # held out by hash where there is no such split

    def __post_init__(self) -> None:
        amounts.check(self.fraction, self.max_documents)
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

    def open(self) -> HubSource:
        """Looks at nothing but the folder, if there is one; the text is loaded when it is read."""
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
        return HubSource(self)
