"""The documents of a hub repo or of a local copy: chooses the rows and reads them in order."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.components.datasets.hub import client, remote_parquet
from tinygpt.components.datasets.hub import rows as hub_rows
from tinygpt.components.datasets.hub.rows import Rows
from tinygpt.components.datasets.reading import amounts, holdout, local_files
from tinygpt.components.datasets.reading.sieve import Sieve
from tinygpt.errors import UserError, check_choice
from tinygpt.interfaces import SPLITS, Split, TextSource

if TYPE_CHECKING:
    from tinygpt.components.datasets.hub.config import HubConfig


class HubSource(TextSource):
    """One column of a repo's files, in row order."""

    def __init__(self, cfg: "HubConfig") -> None:
        self.cfg = cfg
        self.fraction = float(cfg.fraction)
        self.folder = Path(cfg.path).expanduser().absolute() if cfg.path else None
        self._dropped: dict[Split, dict[str, int]] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The contents of a local copy, without its path; else the repo and all fields."""
        cfg = self.cfg
        if self.folder:
            source: Any = local_files.digests(self.folder, local_files.files_in(self.folder))
        else:
            source = [cfg.repo, cfg.revision]
        return {
            "source": source,
            "subset": cfg.subset,
            "text_column": cfg.text_column,
            "on_bad_text": cfg.on_bad_text,
            "splits": [cfg.train_split, cfg.validation_split],
            "rows": [cfg.train_rows, cfg.validation_rows],
            "fraction": self.fraction,
            "max_documents": cfg.max_documents,
            "validation_fraction": cfg.validation_fraction,
        }

    def provenance(self) -> dict[str, Any]:
        """The copy and the rows that were read."""
        return {
            "source": str(self.folder or self.cfg.repo),
            **self.rows.provenance,
            "rows": {
                split: {"split": name, "start": start, "stop": stop}
                for split in SPLITS
                for name, start, stop in [self._range(split)]
            },
        }

    def documents(self, split: Split) -> Iterator[str]:
        """Raises UserError, with what to type instead, if the text cannot be read."""
        cfg = self.cfg
        passed = Sieve(cfg.on_bad_text)
        rows = self.rows.read(*self._range(split))
        texts = passed.not_empty(
            text
            for name, row, column in rows
            for text in passed.texts(column, where=name, first_row=row)
        )
        if self._holds_out:
            texts = holdout.part(texts, split, validation_fraction=cfg.validation_fraction)
        first = next(texts, None)
        if first is None:
            raise UserError(f"dataset.text_column={cfg.text_column} of {split} has only blanks")
        yield first
        yield from texts
        self._dropped[split] = passed.counted(here=split == "train" or not self._holds_out)

    def dropped(self, split: Split) -> dict[str, int]:
        return self._dropped.get(split, {})

    def n_documents(self, split: Split) -> int | None:
        """Rows, including blank ones; None if a hash divides them, or if there may be fewer."""
        if self._holds_out or (split == "train" and self.cfg.max_documents is not None):
            return None
        _, start, stop = self._range(split)
        return stop - start

    def utf8_bytes_estimate(self) -> int | None:
        """Estimated from the footers of parquet files, else from the repo's card."""
        splits: tuple[Split, ...] = ("train",) if self._holds_out else SPLITS
        sizes = [self.rows.text_bytes(*self._range(split)) for split in splits]
        return None if None in sizes else sum(size for size in sizes if size)

    def _range(self, split: Split) -> tuple[str, int, int]:
        """The name of the source's split, and the range of rows to read: start, stop."""
        cfg = self.cfg
        of_train = split == "train" or self._holds_out
        name = cfg.train_split if of_train else str(cfg.validation_split)
        field = "dataset.train_rows" if of_train else "dataset.validation_rows"
        typed = cfg.train_rows if of_train else cfg.validation_rows
        limit = cfg.max_documents if of_train else None
        if typed is None and limit is not None:  # many footers may have to be read for n_rows
            return name, 0, limit
        start, stop = amounts.rows(field, typed)
        n_rows = self.rows.n_rows(name)
        if typed and (start >= n_rows or (stop or 0) > n_rows):
            raise UserError(f"{field}={typed} is not within the {n_rows:,} rows of {name}")
        n = (stop or n_rows) - start
        if of_train:
            n = amounts.first(n, self.fraction) if limit is None else min(n, limit)
        return name, start, start + n

    @property
    def _holds_out(self) -> bool:
        return self.cfg.validation_split not in self.rows.splits

    @cached_property
    def rows(self) -> Rows:
        """The checked rows; downloads the whole repo if its files are not parquet."""
        cfg = self.cfg
        if self.folder:
            builder = client.local(self.folder, cfg.subset)
            rows: Rows | None = hub_rows.of_folder(builder, cfg.text_column)
        else:
            builder, rows = self._remote()
        if rows is None:
            # what is known of it before a large download
            self._check(builder.info.splits or builder.config.data_files, builder.info.features)
            client.download(builder, where=self._where)
            commit = None if self.folder else builder.hash
            self._check(builder.info.splits, builder.info.features)
            return hub_rows.ArrowRows(builder, cfg.text_column, commit=commit)
        self._check(rows.splits, None)  # the column is checked with the first footer
        return rows

    def _remote(self) -> tuple[Any, Rows | None]:
        """A `datasets.DatasetBuilder`, and the rows if they need no download of the whole repo."""
        cfg = self.cfg
        assert cfg.repo is not None
        builder = listing = None
        partial = self.fraction < 1 or cfg.max_documents is not None
        try:
            builder = client.online(cfg.repo, cfg.subset, cfg.revision)
            if partial and not client.is_downloaded(builder):
                listing = remote_parquet.listed(builder, cfg.repo)
                if listing:
                    listing.keep(cfg.subset, cfg.revision)
        except client.Unreachable as problem:
            listing = remote_parquet.kept(cfg.repo, cfg.subset, cfg.revision) if partial else None
            if listing is None:
                builder = client.cached(cfg.repo, cfg.subset, cfg.revision, problem)
        return builder, hub_rows.of_listing(listing, cfg.text_column) if listing else None

    def _check(self, splits: Any, features: Any) -> None:
        cfg = self.cfg
        if splits:
            check_choice("dataset.train_split", cfg.train_split, splits)
            # a source may lack the default one, but not one that was typed
            if cfg.validation_split not in (None, "validation"):
                check_choice("dataset.validation_split", cfg.validation_split, splits)
            ignored = cfg.validation_fraction != type(cfg).validation_fraction
            if cfg.validation_split in splits and ignored:
                raise UserError(
                    f"dataset.validation_fraction={cfg.validation_fraction} would be ignored: "
                    f"there is a {cfg.validation_split} split; leave it out, "
                    "or type dataset.validation_split=null"
                )
            if cfg.validation_split not in splits and cfg.validation_rows is not None:
                raise UserError(
                    f"dataset.validation_rows={cfg.validation_rows} would be ignored: there is no "
                    f"{cfg.validation_split} split; type dataset.validation_split=NAME"
                )
        if features:
            types = {name: getattr(f, "dtype", type(f).__name__) for name, f in features.items()}
            local_files.check_column(cfg.text_column, types, where=self._where)

    @property
    def _where(self) -> str:
        cfg = self.cfg
        return f"dataset.path={cfg.path}" if self.folder else f"dataset.repo={cfg.repo}"
