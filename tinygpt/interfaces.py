"""The interface of each kind of component: the base class of its config, and what `build` returns.

Nothing here imports torch, so configs are composed and checked before heavy libraries load.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from omegaconf import MISSING

from tinygpt.errors import UserError, check_path

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from torch.optim import Optimizer

    from tinygpt.evaluation.subject import Subject
    from tinygpt.language_model import LanguageModel
    from tinygpt.training.state import TrainState

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
Metrics = dict[str, float]


# Datasets: the source of documents


class TextSource(ABC):
    """The documents of a dataset, in a fixed order, split into train and validation."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that determines the documents, as JSON; equal identities mean equal documents.

        It is part of the cache key of the prepared data, so it must be cheap and need no network.
        """

    @abstractmethod
    def documents(self, split: Split) -> Iterator[str]:
        """Iterate over one split lazily, so memory does not grow with the data."""

    def n_documents(self, split: Split) -> int | None:
        """An upper bound on the split's document count; None if only reading would tell."""
        return None

    def utf8_bytes_estimate(self) -> int | None:
        """A rough size of both splits in UTF-8 bytes, from file sizes or other cheap metadata.

        It may be wrong by a factor of two; None if only reading would tell.
        """
        return None

    def dropped(self, split: Split) -> dict[str, int]:
        """How many documents the last complete pass over `documents(split)` left out, by reason.

        Reasons are "empty" and "bad_text". Returns {} before the first pass, and for sources that
        never drop a document. A document dropped before the splits are made counts for train.
        """
        return {}

    def provenance(self) -> dict[str, Any]:
        """Extra facts for the manifest, such as the commit that was read."""
        return {}

    def entropy_bits(self, split: Split) -> float | None:
        """The sum of -log2 P(document) over the split; None if P is unknown."""
        return None


@dataclass
class DatasetConfig(ABC):
    """Config of a dataset: its fields select the text, and `open` gives access to it.

    `window` and `mask_documents` set how training reads the tokens; they are not in the identity.
    """

    name: str = MISSING
    # where training windows begin: packed: one after another; document: at the start of a document
    window: str = "packed"
    mask_documents: bool = False  # attention stays inside each document

    @abstractmethod
    def open(self) -> TextSource:
        """Check that the text exists and return it; raises UserError."""

    def settled(self, *, tokens: int | None, bytes_per_token: float) -> DatasetConfig:
        """This config with the settings that follow from the length of a run filled in.

        `tokens` is how many the run trains on, None if only data, model or clock determine it;
        `bytes_per_token` is the most UTF-8 bytes that the tokenizer's tokens have on average.
        """
        return self

    def amount(self) -> str:
        """One line: how much text is used, and how to use more or less; "" if nothing to say."""
        return ""


# Tokenizers: str <-> token ids


@dataclass(frozen=True)
class Encoded:
    """Token ids of several texts, concatenated."""

    ids: npt.NDArray[np.int32]  # (tokens,): all texts, one after another
    lengths: npt.NDArray[np.int64]  # (texts,): number of ids in each text


class Tokenizer(ABC):
    """Text to ids and back: `decode(encode(s)) == s` for every string.

    Encoding never produces the end-of-text token; `eot_id` is inserted between documents.
    """

    eot_id: int = 0

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, end of text included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without end of text."""

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Encode many texts; override this if the tokenizer has a faster batch method."""
        encoded = [self.encode(text) for text in texts]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum()))
        return Encoded(ids, lengths)

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids, without end of text; may end inside a character."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; invalid UTF-8, which only a model can produce, becomes U+FFFD."""
        data = self.decode_bytes(ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that `TokenizerConfig.load` reads into an existing folder."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 hex of everything that determines `encode`."""


def utf8_length(text: str) -> int:
    """Length of the text in UTF-8 bytes; a lone surrogate counts as three."""
    return len(text.encode("utf-8", "surrogatepass"))


@dataclass
class TokenizerConfig(ABC):
    """Config of a tokenizer: its fields say how to train one."""

    # UTF-8 bytes per token of English text, at most; determines how much text dataset.fraction=auto
    # downloads
    most_bytes_per_token: ClassVar[float] = 5.0
    name: str = MISSING

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the tokenizer except the documents, as JSON.

        It is part of the cache key of the prepared data. Raises UserError if the tokenizer needs a
        file that cannot be read.
        """
        return asdict(self)

    @abstractmethod
    def train(self, documents: Iterator[str]) -> Tokenizer:
        """Learn the vocabulary from the documents; the same documents give the same vocabulary."""

    @abstractmethod
    def load(self, folder: Path) -> Tokenizer:
        """Read what `Tokenizer.save` wrote; raises UserError if the folder does not hold it."""

    def load_from(self, path: str) -> Tokenizer:
        """The tokenizer in the folder that `tokenizer.path` names; raises UserError."""
        check_path("tokenizer.path", path)
        folder = Path(path).expanduser()
        inside = folder / "tokenizer"
        if (folder / "run.json").is_file() and inside.is_dir():
            raise UserError(f"tokenizer.path={path} is a run; type tokenizer.path={inside}")
        if not folder.is_dir():
            raise UserError(
                f"tokenizer.path={path} is not a folder; type the tokenizer of a run, such as "
                "tokenizer.path=outputs/RUN/tokenizer"
            )
        try:
            return self.load(folder)
        except UserError as error:
            reason = str(error).partition("; ")[0]
            raise UserError(
                f"tokenizer.path={path} holds no intact {self.name} tokenizer: {reason}; type the "
                "choice it was made with, or another folder"
            ) from None


# Models, optimizers, schedules


@dataclass
class ModelConfig(ABC):
    """Config of a model: its fields set the architecture and size; `build` makes the network."""

    # whether attention can be masked to each document: see `LanguageModel`
    masks_documents: ClassVar[bool] = False
    # fields that the weights do not depend on, so they may be typed with init_from
    changeable: ClassVar[tuple[str, ...]] = ("dropout",)
    name: str = MISSING

    @abstractmethod
    def build(self, *, vocab_size: int, seq_len: int) -> LanguageModel:
        """A new model on the default device, initialized from torch's random generator."""


@dataclass
class OptimizerConfig(ABC):
    """Config of an optimizer: its fields set the update rule; `build` makes the optimizer."""

    # bytes of its state for each parameter: 4 for each tensor in fp32 that it keeps, at most
    state_bytes: ClassVar[int] = 8
    averages: ClassVar[bool] = False  # whether it evaluates averaged weights: no decay is needed
    name: str = MISSING
    lr: float = 1e-3

    @abstractmethod
    def build(self, model: LanguageModel) -> Optimizer:
        """An optimizer of all parameters; every group starts at the peak learning rate.

        `model.roles()` gives the role of each parameter.
        """


@dataclass
class ScheduleConfig(ABC):
    """Config of a schedule: the learning rate as a fraction of its peak, by progress alone."""

    name: str = MISSING

    @abstractmethod
    def multiplier(self, progress: float) -> float:
        """Fraction of the peak learning rate when `progress` in [0, 1] of the run is done."""


# Loggers and callbacks


@dataclass(frozen=True)
class RunInfo:
    """Facts about the run that a logger can use."""

    folder: Path
    id: str  # a resumed run keeps its id
    group: str | None  # the sweep that the run belongs to
    config: Mapping[str, Any]  # the resolved config, as in config.yaml
    derived: Mapping[str, Any]  # n_params, max_steps, ...: computed from config and data
    resumed_at: int | None  # step from which a resumed run continues
    rows: Sequence[Metrics] = ()  # a resumed run's rows up to that step, each with its "step"


class Logger:
    """Receives rows of metrics; every method is optional and does nothing by default."""

    def start(self, run: RunInfo) -> None:
        """Called once, before the first row."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Log one row; steps increase from call to call."""

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Log texts that the model generated at this step."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Called exactly once at the end; status is finished, interrupted or failed."""


@dataclass
class LoggerConfig(ABC):
    """Config of a logger: its fields set where the rows go."""

    name: str = MISSING

    def check(self) -> None:
        """Raise UserError if this machine lacks what the logger needs; by default checks nothing.

        Called before the run folder is created.
        """
        return

    @abstractmethod
    def build(self) -> Logger:
        """A new logger; raises UserError if a package or setting that it needs is missing."""


@dataclass(frozen=True)
class CallbackContext:
    """Parts of the run that a callback can use."""

    tokenizer: Tokenizer
    folder: Path
    logger: Logger
    seq_len: int
    prompts: Sequence[str] = ("",)  # examples that suit the dataset
    # the first validation documents, up to a number of them
    documents: Callable[[int], list[str]] = lambda limit: []


class Callback:
    """Watches a run; state that must survive a resume goes in `state.callbacks[name]`."""

    def on_eval(self, state: TrainState, metrics: Metrics) -> str | None:
        """Called after each evaluation; returning a text stops the run with that reason.

        It may add numbers of its own to `metrics`, which are logged with the others.
        """
        return None

    def on_end(self, state: TrainState) -> None:
        """Called after the last step, unless the run was interrupted."""


@dataclass
class CallbackConfig(ABC):
    """Config of a callback: its fields set what to watch for."""

    name: str = MISSING

    @abstractmethod
    def build(self, context: CallbackContext) -> Callback:
        """A new callback for one run."""


# Evaluations: what a trained model can do


@dataclass(frozen=True)
class Finding:
    """One number of an evaluation; `low` and `high` are the ends of its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None  # how many items, tokens or texts it comes from
    better: Literal["higher", "lower"] | None = None  # None: neither, such as a length
    of_tokens: bool = False  # whether it depends on the tokenizer, so only equal ones compare
    headline: bool = False  # one of the suite's `headlines`

    def in_words(self) -> str:
        """The value and its interval: `3.52 ± 0.014`, or `0 [0, 0.16]` where it is lopsided."""
        if self.low is None or self.high is None or self.low == self.high:
            return f"{self.value:.4g}"
        half, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
        if abs(middle - self.value) > half / 10:
            return f"{self.value:.3g} [{self.low:.2g}, {self.high:.2g}]"
        digits = max(0, 1 - math.floor(math.log10(half)))
        return f"{self.value:.{digits}f} ± {half:.{digits}f}"


@dataclass(frozen=True)
class Findings:
    """The numbers of an evaluation by name, and what a reader may want to see beside them."""

    numbers: Mapping[str, Finding]
    examples: Mapping[str, Any] | None = None  # texts and tables, as JSON
    notes: Sequence[str] = ()  # what was not measured, and why


@dataclass
class EvaluationConfig(ABC):
    """Config of an evaluation suite: its fields set what is measured; `run` measures it.

    Numbers are comparable if the suite's name, its `version`, its fields, the text and the content
    of its files are equal.
    """

    version: ClassVar[int] = 1  # raise it when equal settings give other numbers
    in_all: ClassVar[bool] = True  # whether suite=all runs it
    # numbers that are known to put better models first; the others describe a model
    headlines: ClassVar[Sequence[str]] = ()
    optional: ClassVar[Sequence[str]] = ()  # packages without which some numbers are missing
    name: str = MISSING

    def check(self) -> None:
        """Raise UserError if this machine lacks what the suite needs; by default checks nothing.

        Called before any suite runs.
        """
        return

    def files(self) -> Sequence[Path]:
        """The files that the numbers depend on besides the run; by default none."""
        return ()

    def texts(self, subject: Subject) -> Mapping[str, str]:
        """The sha256 of each text of the run's dataset that the numbers depend on, by name.

        By default the whole validation split, and the part of it that training evaluates.
        """
        return subject.text_sha256()

    @abstractmethod
    def run(self, subject: Subject) -> Findings:
        """Measure a model; raises UserError if the run lacks what the suite needs."""


# Sweeps: which runs to make, how long each trains, and where they run


@dataclass(frozen=True)
class Trial:
    """One run of a sweep, as searches and stopping rules see it."""

    number: int  # the name of its folder in the sweep
    overrides: tuple[str, ...]  # the swept settings, as `key=value`
    status: str  # queued, running, paused, finished, stopped, interrupted or failed
    max_steps: int | None  # None if the run ends by wall-clock time
    values: Mapping[int, float]  # step -> objective at that step; lower is better


class Search:
    """Chooses the configs that a sweep tries; its state can be rebuilt from the trials."""

    def planned(self) -> list[list[str]]:
        """The overrides of every trial that is fixed before the sweep starts."""
        return []

    def suggest(self, trials: Sequence[Trial]) -> list[str] | None:
        """The overrides of the next trial, given the results so far; None if there is none."""
        return None


@dataclass
class SearchConfig(ABC):
    """Config of a search: its fields set how many configs to try and how to choose them."""

    name: str = MISSING

    @abstractmethod
    def build(self, space: Sequence[Override], *, folder: Path) -> Search:
        """A search over the typed space; it may keep files in `folder`, the sweep's folder.

        Raises UserError for a kind of value that this search cannot use.
        """


class Stopping(ABC):
    """Decides which runs continue, as a pure function of the trials.

    `all_known` is true when the search has no more suggestions and every trial has started.
    """

    @abstractmethod
    def rungs(self, max_steps: int, *, every: int) -> list[int]:
        """Steps at which a run pauses to be compared, in increasing order, below max_steps.

        Multiples of `every`, the evaluation interval, where possible.
        """

    @abstractmethod
    def promoted(self, trials: Sequence[Trial], *, all_known: bool) -> list[int]:
        """Numbers of the paused trials to resume, best first."""

    @abstractmethod
    def dropped(self, trials: Sequence[Trial], *, all_known: bool) -> dict[int, str]:
        """Numbers of the paused trials to stop for good, each with the reason."""


@dataclass
class StoppingConfig(ABC):
    """Config of a stopping rule: its fields set when runs are compared and how many continue."""

    name: str = MISSING

    @abstractmethod
    def build(self) -> Stopping | None:
        """The rule; None if every run trains to its end."""


def rungs_at(fractions: Iterable[float], max_steps: int, *, every: int) -> list[int]:
    """Steps at these fractions of a run, rounded to multiples of `every` where possible."""
    steps = set()
    for fraction in fractions:
        step = round(fraction * max_steps / every) * every or round(fraction * max_steps)
        steps.add(max(step, 1))
    return sorted(step for step in steps if step < max_steps)


class Launcher(ABC):
    """Starts the runs of a sweep, one process for each."""

    slots: int  # how many runs at the same time
    requeues = False  # whether a preempted run is requeued
    threads: int | None  # default CPU threads of a run; None if it uses a GPU

    @abstractmethod
    def start(self, run: Path, command: Sequence[str]) -> None:
        """Start the command for the run in this folder; the caller checks for a free slot.

        The output of the process goes to `process.log` in the folder.
        """

    @abstractmethod
    def ended(self) -> dict[Path, str | None]:
        """The runs whose process has ended since the last call.

        The value says how it was killed (a signal, a lost node); None if it exited by itself.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ask every process to save its run and exit; a second call kills them.

        Returns at once; `ended` reports when they have exited.
        """


@dataclass
class LauncherConfig(ABC):
    """Config of a launcher: its fields set where a sweep's runs start, and how many at once."""

    name: str = MISSING

    @abstractmethod
    def build(self, *, folder: Path, devices: Collection[str]) -> Launcher:
        """A launcher for the sweep in `folder`; `devices` are the `device.type`s of its runs.

        Raises UserError if a package or program that it needs is missing.
        """
