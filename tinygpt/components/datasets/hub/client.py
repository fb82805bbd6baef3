"""Ask the hub through the library `datasets`: bounded attempts, then one clear error."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tinygpt.errors import UserError, check_choice

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further attempt to download
_LOOKUP_WAITS_S = (0.5, 1.0)  # before each further attempt to look up a repo
_LOOKUP_TIMEOUT_S = 5
_OTHER_WAYS = (
    "type dataset.path=FOLDER for a local copy, or dataset=storyworld, which needs no network"
)
T = TypeVar("T")


class Unreachable(Exception):
    """The hub does not answer; the text gives the reason."""


def local(folder: Path, subset: str | None) -> Any:
    """The `datasets.DatasetBuilder` of a folder in the hub's layout; raises UserError."""
    _library()
    where = f"dataset.path={folder}"
    try:
        return _builder(str(folder), subset, None, where=where)
    except Unreachable as problem:
        raise UserError(f"{where} could not be loaded: {problem}") from None


def online(repo: str, subset: str | None, revision: str) -> Any:
    """The builder of a repo at the commit that `revision` names now.

    Raises UserError if the hub refuses the request, Unreachable if it does not answer.
    """
    _library()
    commit = _commit(repo, revision)
    builder = _builder(repo, subset, commit, where=f"dataset.repo={repo}")
    if builder.hash != commit:  # the library fell back to its cache
        raise Unreachable("the connection was lost")
    return builder


def cached(repo: str, subset: str | None, revision: str, problem: Unreachable) -> Any:
    """The builder of the newest commit in the local cache.

    Raises UserError, with `problem` as the reason, if the cache does not have the revision.
    """
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
    except Exception as error:  # from the HTTP library, the file format or the disk
        again = "; files that came whole are kept, so try again" if builder.repo_id else ""
        raise UserError(f"{where} could not be loaded: {reason(error)}{again}") from error


def persistently(
    ask: Callable[[], T],
    *,
    passes: Callable[[Exception], bool],
    waits_s: Sequence[float] | None = None,
) -> T:
    """Call `ask` until it returns, with a wait before each of `len(waits_s)` further attempts.

    Only errors for which `passes` is true are tried again; the last error is raised.
    """
    for wait_s in WAITS_S if waits_s is None else waits_s:
        try:
            return ask()
        except Exception as error:
            if not passes(error):
                raise
        time.sleep(wait_s)
    return ask()


def is_busy(error: BaseException) -> bool:
    """Whether the hub reports a fault of its own (5xx), a timeout (408) or a rate limit (429)."""
    from huggingface_hub import errors

    statuses = [
        e.response.status_code for e in _causes(error) if isinstance(e, errors.HfHubHTTPError)
    ]
    return any(status >= 500 or status in (408, 429) for status in statuses)


def reason(error: BaseException) -> str:
    """The first line of the error's root cause."""
    root = _causes(error)[-1]
    return (str(root).strip() or type(root).__name__).splitlines()[0]


def refused(error: Exception, *, where: str) -> UserError | None:
    """The error to raise if the hub asks for a login (401 or 403), else None."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return UserError(f"{where} is refused: {reason(error)}; log in with: hf auth login")
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error, its cause, the cause of that, and so on to the root."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _library() -> None:
    """Import `datasets` without usage reports, and without progress bars outside a terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # both are read at import
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _commit(repo: str, revision: str) -> str:
    """The commit that `revision` names now.

    Asked here because the library alone tries for 23 s when the hub does not answer. Raises
    UserError if the hub refuses the request, Unreachable if it does not answer.
    """
    from datasets import config
    from huggingface_hub import HfApi, errors

    def ask() -> Any:
        return HfApi().dataset_info(repo, revision=revision, timeout=_LOOKUP_TIMEOUT_S).sha

    where = f"dataset.repo={repo}"
    if config.HF_HUB_OFFLINE:
        raise Unreachable("HF_HUB_OFFLINE is set")
    try:
        return str(persistently(ask, passes=is_busy, waits_s=_LOOKUP_WAITS_S))
    except errors.HFValidationError:
        raise UserError(f"{where} is no name; type dataset.repo=OWNER/NAME") from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"dataset.revision={revision} is no branch, tag or commit of {where}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{where} is not on the hub, or is private; "
            "mind the spelling, or log in with: hf auth login"
        ) from None
    except Exception as error:  # the HTTP library's errors differ between versions
        raise refused(error, where=where) or Unreachable(reason(error)) from None


def _builder(source: str, subset: str | None, commit: str | None, *, where: str) -> Any:
    """Raises UserError if the source or the subset is wrong, else Unreachable."""
    import datasets

    try:
        return datasets.load_dataset_builder(source, subset, revision=commit)
    except datasets.exceptions.DatasetNotFoundError as error:  # a gated repo: its text says how
        raise UserError(f"{where}: {error} Log in with: hf auth login") from None
    except FileNotFoundError as error:
        raise UserError(f"{where} has no data files that can be read: {reason(error)}") from None
    except (ValueError, RuntimeError) as error:
        subsets: list[str] = []
        if commit or Path(source).is_dir():  # the library's cache cannot list subsets
            with suppress(Exception):  # then the library's own error is reported below
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
    """Let the library use only its cache, as if HF_HUB_OFFLINE=1 had been set at the start."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
