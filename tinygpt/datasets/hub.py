"""Any text dataset of the Hugging Face hub, or a local copy of one in the hub's layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygpt.datasets import holdout, hub_client, local_files
from tinygpt.errors import UserError, check_choice, check_range
from tinygpt.interfaces import DatasetConfig, Split, TextSource
from tinygpt.registry import register

_ROWS = 1000  # read at a time


@register("dataset")
@dataclass
class HubConfig(DatasetConfig):
    """A repo of the hub by its name, read through the library `datasets` and kept in its cache."""

    name: str = "hub"
    repo: str | None = None  # OWNER/NAME
    path: str | None = None  # a folder laid out as the repo is; then the hub is not asked
    subset: str | None = None  # one of the repo's configs; null takes its default
    revision: str = "main"  # branch, tag or commit; only a commit never moves
    text_column: str = "text"  # one row is one document; blank ones are left out
    train_split: str = "train"
    validation_split: str | None = "validation"  # null holds out a part of train
    fraction: float = 1.0  # first part of the train split; all of it is downloaded
    validation_fraction: float = 0.05  # held out of train where there is no such split

    def __post_init__(self) -> None:
        check_range("dataset.fraction", self.fraction, above=0, high=1)
        check_range("dataset.validation_fraction", self.validation_fraction, above=0, below=1)
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
        if self.train_split == self.validation_split:
            raise UserError(
                f"dataset.validation_split={self.validation_split} is the train split; "
                "type dataset.validation_split=null to hold out a part of it"
            )

    def open(self) -> TextSource:
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


class HubSource(TextSource):
    """One column, streamed from the Arrow files that the library keeps in its cache."""

    def __init__(self, cfg: HubConfig) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.path).expanduser().absolute() if cfg.path else None
        self._where = f"dataset.path={cfg.path}" if cfg.path else f"dataset.repo={cfg.repo}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The contents of a local copy, wherever it stands; else what is asked of the hub."""
        cfg = self.cfg
        if self.folder:
            source: Any = local_files.digests(self.folder, local_files.files_in(self.folder))
        else:
            source = [cfg.repo, cfg.revision]
        return {
            "source": source,
            "subset": cfg.subset,
            "text_column": cfg.text_column,
            "splits": [cfg.train_split, cfg.validation_split],
            "fraction": cfg.fraction,
            "validation_fraction": cfg.validation_fraction,
        }

    def provenance(self) -> dict[str, Any]:
        """Which copy was read, and the rows of the splits in it."""
        return {
            "source": str(self.folder or self.cfg.repo),
            "commit": None if self.folder else self._builder.hash,
            "rows": {name: info.num_examples for name, info in self._builder.info.splits.items()},
        }

    def documents(self, split: Split) -> Iterator[str]:
        """Raises UserError when the text cannot be had, with what to type instead."""
        texts: Iterator[str]
        texts = (text for column in self._columns(split) for text in column.to_pylist())
        if self._holds_out:
            fraction = self.cfg.validation_fraction
            texts = holdout.part(texts, split, validation_fraction=fraction)
        first = next(texts, None)
        if first is None:
            raise UserError(
                f"dataset.text_column={self.cfg.text_column} of {split} has only blanks"
            )
        yield first
        yield from texts

    def n_documents(self, split: Split) -> int | None:
        """Rows that are not blank; not known where a hash decides."""
        return None if self._holds_out else sum(map(len, self._columns(split)))

    def _columns(self, split: Split) -> Iterator[Any]:
        """The documents as pieces of an Arrow column."""
        from pyarrow import compute

        cfg = self.cfg
        of_train = split == "train" or self._holds_out
        data = self._builder.as_dataset(cfg.train_split if of_train else cfg.validation_split)
        if split == "train":
            data = data.select(range(min(len(data), max(1, round(cfg.fraction * len(data))))))
        rows = data.select_columns([cfg.text_column]).with_format("arrow")
        for table in rows.iter(batch_size=_ROWS):
            column = table.column(0)
            yield column.filter(compute.not_equal(compute.utf8_trim_whitespace(column), ""))

    @property
    def _holds_out(self) -> bool:
        return self.cfg.validation_split not in self._builder.info.splits

    @cached_property
    def _builder(self) -> Any:
        """A `datasets.DatasetBuilder` whose Arrow files are made; all checks are done."""
        cfg = self.cfg
        if self.folder:
            builder = hub_client.local(self.folder, cfg.subset)
        else:
            assert cfg.repo is not None
            builder = hub_client.remote(cfg.repo, cfg.subset, cfg.revision)
        # what is known of it before a large download
        self._check(builder.info.splits or builder.config.data_files, builder.info.features)
        hub_client.download(builder, where=self._where)
        self._check(builder.info.splits, builder.info.features)
        return builder

    def _check(self, splits: Any, features: Any) -> None:
        cfg = self.cfg
        if splits:
            check_choice("dataset.train_split", cfg.train_split, splits)
            # a source may lack the default one, but not one that was typed
            if cfg.validation_split not in (None, "validation"):
                check_choice("dataset.validation_split", cfg.validation_split, splits)
            ignored = cfg.validation_fraction != HubConfig.validation_fraction
            if cfg.validation_split in splits and ignored:
                raise UserError(
                    f"dataset.validation_fraction={cfg.validation_fraction} would be ignored: "
                    f"there is a {cfg.validation_split} split; leave it out, "
                    "or type dataset.validation_split=null"
                )
        if features:
            types = {name: getattr(f, "dtype", type(f).__name__) for name, f in features.items()}
            local_files.check_column(cfg.text_column, types, where=self._where)
