"""The library `datasets`, with its failures in a user's words and without its long waits."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinygpt.components.datasets.hub.http import is_busy, persistently, reason
from tinygpt.errors import UserError, check_choice

_OTHER_WAYS = (
    "type dataset.path=FOLDER for a local copy, or dataset=storyworld, which needs no network"
)
_PATIENCE_S = 5  # for one answer of the hub
_WAITS_S = (0.5, 1.0)  # before it is asked again


class Unreachable(Exception):
    """The hub gives no answer; the text says why."""


def local(folder: Path, subset: str | None) -> Any:
    """The `datasets.DatasetBuilder` of a folder in the hub's layout; raises UserError."""
    _library()
    where = f"dataset.path={folder}"
    try:
        return _builder(str(folder), subset, None, where=where)
    except Unreachable as problem:
        raise UserError(f"{where} could not be loaded: {problem}") from None


def online(repo: str, subset: str | None, revision: str) -> Any:
    """The builder of a repo at the commit that the revision means now.

    Raises UserError if the hub says no, Unreachable if it says nothing.
    """
    _library()
    commit = _commit(repo, revision)
    builder = _builder(repo, subset, commit, where=f"dataset.repo={repo}")
    if builder.hash != commit:  # the library took what its cache has
        raise Unreachable("the connection was lost")
    return builder


def cached(repo: str, subset: str | None, revision: str, problem: Unreachable) -> Any:
    """The builder of the newest commit in the local cache; raises UserError with the problem."""
    _library()
    where = f"dataset.repo={repo}"
    with _offline():
        try:
            builder = _builder(repo, subset, None, where=where)
        except Unreachable:
            raise UserError(
                f"{where} is not in the local cache and cannot be had from the hub: "
                f"{problem}\n  {_OTHER_WAYS}"
            ) from None
    if revision not in ("main", builder.hash):
        raise UserError(
            f"dataset.revision={revision} cannot be looked up, as the hub cannot be reached: "
            f"{problem}\n  the local cache has dataset.revision={builder.hash}"
        )
    return builder


def is_downloaded(builder: Any) -> bool:
    """Whether the library's cache has the builder's Arrow files."""
    return Path(builder.cache_dir).is_dir()


def download(builder: Any, *, where: str) -> None:
    """Make the builder's Arrow files, unless the cache has them; raises UserError."""
    try:
        persistently(builder.download_and_prepare, passes=is_busy)
    except Exception as error:  # of the HTTP library, of the file format, of the disk
        again = "; files that came whole are kept, so try again" if builder.repo_id else ""
        raise UserError(f"{where} could not be loaded: {reason(error)}{again}") from error


def _library() -> None:
    """Import `datasets`, quiet where nobody watches, and without reports to anybody."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # both are read at import
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _commit(repo: str, revision: str) -> str:
    """Ask the hub, where the library alone would try for 23 s when nobody answers.

    Raises UserError if the hub says no, Unreachable if it says nothing.
    """
    from datasets import config
    from huggingface_hub import errors

    if config.HF_HUB_OFFLINE:
        raise Unreachable("HF_HUB_OFFLINE is set")
    try:
        return str(_info(repo, revision).sha)
    except errors.HFValidationError:
        raise UserError(f"dataset.repo={repo} is no name; type dataset.repo=OWNER/NAME") from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"dataset.revision={revision} is no branch, tag or commit of dataset.repo={repo}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"dataset.repo={repo} is not on the hub, or is private; "
            "mind the spelling, or log in with: hf auth login"
        ) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(
                f"dataset.repo={repo} is refused: {reason(error)}; log in with: hf auth login"
            ) from None
        raise Unreachable(reason(error)) from None
    except Exception as error:  # the HTTP library's own, which differ between versions
        raise Unreachable(reason(error)) from None


def _info(repo: str, revision: str) -> Any:
    """What the hub says of the repo."""
    from huggingface_hub import HfApi

    def ask() -> Any:
        return HfApi().dataset_info(repo, revision=revision, timeout=_PATIENCE_S)

    return persistently(ask, passes=is_busy, waits_s=_WAITS_S)


def _builder(source: str, subset: str | None, commit: str | None, *, where: str) -> Any:
    """Raises UserError, or Unreachable."""
    import datasets

    try:
        return datasets.load_dataset_builder(source, subset, revision=commit)
    except datasets.exceptions.DatasetNotFoundError as error:  # gated: its text says what to do
        raise UserError(f"{where}: {error} Log in with: hf auth login") from None
    except FileNotFoundError as error:
        raise UserError(f"{where} has no data files that can be read: {reason(error)}") from None
    except (ValueError, RuntimeError) as error:
        subsets: list[str] = []
        if commit or Path(source).is_dir():  # the library's cache cannot list them
            with suppress(Exception):  # which then is what the error below says
                subsets = datasets.get_dataset_config_names(source, revision=commit)
        if subset is None and len(subsets) > 1:
            raise UserError(
                f"{where} has subsets; type dataset.subset=NAME\n  choices: {', '.join(subsets)}"
            ) from None
        if subset is not None and subsets:
            check_choice("dataset.subset", subset, subsets)
        told = " ".join(str(error).split())
        asked = where if subset is None else f"{where} dataset.subset={subset}"
        raise UserError(f"{asked} could not be loaded: {told}") from None
    except Exception as error:
        raise Unreachable(reason(error)) from None


@contextmanager
def _offline() -> Iterator[None]:
    """Let the library look only into its cache, as HF_HUB_OFFLINE=1 does from the start."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
