"""What each kind of component must offer: the base class of its config, and what that config makes.

Nothing here imports torch: configs are composed and checked before the heavy libraries load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from omegaconf import MISSING

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from torch.optim import Optimizer

    from tinygpt.language_model import LanguageModel
    from tinygpt.training.state import TrainState

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
Metrics = dict[str, float]


# Datasets: where documents come from


class TextSource(ABC):
    """The documents of a dataset, in a fixed order, split into train and validation."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Whatever determines the documents, as JSON; equal identities mean equal documents.

        It is part of the key of the prepared data, so it must be cheap and need no network.
        """

    @abstractmethod
    def documents(self, split: Split) -> Iterator[str]:
        """The documents of one split, lazily: memory does not grow with the data."""

    def n_documents(self, split: Split) -> int | None:
        """How many documents the split has at most, if that is known without reading them."""
        return None

    def utf8_bytes_estimate(self) -> int | None:
        """About how many UTF-8 bytes both splits have, from sizes that are cheap to learn.

        It may be wrong by a factor of two; None where nothing is known without reading.
        """
        return None

    def dropped(self, split: Split) -> dict[str, int]:
        """Documents that the last complete pass over `documents(split)` left out, by reason.

        Reasons are "empty" and "bad_text"; {} before the first pass and where nothing can be.
        What is dropped before the source divides its documents into splits counts for train.
        """
        return {}

    def provenance(self) -> dict[str, Any]:
        """What the manifest records beside the identity, such as the commit that was read."""
        return {}

    def entropy_bits(self, split: Split) -> float | None:
        """The sum over the split's documents of -log2 P(document), where P is known."""
        return None


@dataclass
class DatasetConfig(ABC):
    """Fields say which text; `open` gives access to it.

    The two fields here say how training reads its tokens, and are no part of the identity.
    """

    name: str = MISSING
    # where training windows begin: packed follow each other; document: at a document's beginning
    window: str = "packed"
    mask_documents: bool = False  # attention sees the own document only, not those before it

    @abstractmethod
    def open(self) -> TextSource:
        """Check that the text is there and return it; raises UserError."""


# Tokenizers: str <-> token ids


@dataclass(frozen=True)
class Encoded:
    """The ids of several texts."""

    ids: npt.NDArray[np.int32]  # (tokens,): of all texts, one after another
    lengths: npt.NDArray[np.int64]  # (texts,): how many of the ids are of each text


class Tokenizer(ABC):
    """Text to ids and back: `decode(encode(s)) == s` for every string.

    The end-of-text token is never made from text: only `eot_id` puts it between documents.
    """

    eot_id: int = 0

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, end of text included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of the text, without end of text."""

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """`encode` for many texts; faster where the tokenizer can."""
        encoded = [self.encode(text) for text in texts]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum()))
        return Encoded(ids, lengths)

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; end of text adds none.  A cut character gives its first bytes."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; what is not UTF-8 (only a model writes that) becomes U+FFFD."""
        data = self.decode_bytes(ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `TokenizerConfig.load` needs into an existing folder."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 hex of everything that determines `encode`."""


def utf8_length(text: str) -> int:
    """UTF-8 bytes of the text; a lone surrogate counts as three."""
    return len(text.encode("utf-8", "surrogatepass"))


@dataclass
class TokenizerConfig(ABC):
    """Fields say how to train it; the result is a Tokenizer."""

    name: str = MISSING

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the tokenizer beside the documents, as JSON: in the prepared data's key.

        Raises UserError if a file that belongs to it cannot be read.
        """
        return asdict(self)

    @abstractmethod
    def train(self, documents: Iterator[str]) -> Tokenizer:
        """Learn the vocabulary from the documents; the same documents give the same vocabulary."""

    @abstractmethod
    def load(self, folder: Path) -> Tokenizer:
        """Read what `Tokenizer.save` wrote; raises UserError if the folder does not hold it."""


# Models, optimizers, schedules


@dataclass
class ModelConfig(ABC):
    """Fields say the architecture and its size; `build` makes the network."""

    # whether the network can keep documents apart: see `LanguageModel`
    masks_documents: ClassVar[bool] = False
    name: str = MISSING

    @abstractmethod
    def build(self, *, vocab_size: int, seq_len: int) -> LanguageModel:
        """A new model on the default device, its weights drawn from torch's generator."""


@dataclass
class OptimizerConfig(ABC):
    """Fields say the update rule; `build` makes the optimizer."""

    name: str = MISSING
    lr: float = 1e-3

    @abstractmethod
    def build(self, model: LanguageModel) -> Optimizer:
        """An optimizer of all parameters, its groups at the peak learning rate.

        `model.roles()` says what each parameter is for.
        """


@dataclass
class ScheduleConfig(ABC):
    """Learning rate as a fraction of its peak: a pure function of progress."""

    name: str = MISSING

    @abstractmethod
    def multiplier(self, progress: float) -> float:
        """Fraction of the peak learning rate at `progress` in [0, 1] of the run."""


# Loggers and callbacks


@dataclass(frozen=True)
class RunInfo:
    """What a logger may know about the run."""

    folder: Path
    id: str  # stable: a resumed run has the id that it began with
    group: str | None  # the sweep that the run belongs to
    config: Mapping[str, Any]  # resolved and plain: what config.yaml holds
    derived: Mapping[str, Any]  # n_params, max_steps, ...: follows from config and data
    resumed_at: int | None  # step at which a resumed run goes on
    rows: Sequence[Metrics] = ()  # of a resumed run, those up to there, each with its "step"


class Logger:
    """Where rows of metrics go. Each method may be left as it is."""

    def start(self, run: RunInfo) -> None:
        """Called once, before the first row."""

    def log(self, step: int, metrics: Metrics) -> None:
        """One row; steps grow from call to call."""

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Texts that the model wrote at this step."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Called once, always; status is finished, interrupted or failed."""


@dataclass
class LoggerConfig(ABC):
    """Fields say where the rows go."""

    name: str = MISSING

    def check(self) -> None:
        """Raise UserError if this machine is not set up for it; called before a run has a folder.

        By default there is nothing to check.
        """
        return

    @abstractmethod
    def build(self) -> Logger:
        """A logger; raises UserError if what it needs is missing."""


@dataclass(frozen=True)
class CallbackContext:
    """What a callback may use."""

    tokenizer: Tokenizer
    folder: Path
    logger: Logger
    seq_len: int
    prompts: Sequence[str] = ("",)  # that fit the dataset


class Callback:
    """Watches a run. What it must remember across a resume it keeps in `state.callbacks[name]`."""

    def on_eval(self, state: TrainState, metrics: Metrics) -> str | None:
        """After each evaluation; a returned text ends the run with that reason."""
        return None

    def on_end(self, state: TrainState) -> None:
        """After the last step of a run that was not interrupted."""


@dataclass
class CallbackConfig(ABC):
    """Fields say what to watch for."""

    name: str = MISSING

    @abstractmethod
    def build(self, context: CallbackContext) -> Callback:
        """A callback for one run."""


# Sweeps: which runs, how far each goes, and where they run


@dataclass(frozen=True)
class Trial:
    """A run of a sweep, as a search and a stopping rule see it."""

    number: int  # its folder in the sweep
    overrides: tuple[str, ...]  # what tells it from the others, as `key=value`
    status: str  # queued, running, paused, finished, stopped, interrupted or failed
    max_steps: int | None  # None: it ends by the clock
    values: Mapping[int, float]  # step -> the objective there, lower is better


class Search:
    """Says which configs a sweep tries. All that it remembers follows from the trials."""

    def planned(self) -> list[list[str]]:
        """The overrides of each trial that is known from the start."""
        return []

    def suggest(self, trials: Sequence[Trial]) -> list[str] | None:
        """The overrides of one more trial, given how all so far went; None: there are no more."""
        return None


@dataclass
class SearchConfig(ABC):
    """Fields say how many configs to try, and by which rule."""

    name: str = MISSING

    @abstractmethod
    def build(self, space: Sequence[Override], *, folder: Path) -> Search:
        """A search over what was typed; what it keeps on disk is in the sweep's folder.

        Raises UserError for a value in the space that it has no use for.
        """


class Stopping(ABC):
    """Says which runs are worth going on with. A pure function of the trials.

    `all_known` says that the search has no more to suggest, and every trial has begun.
    """

    @abstractmethod
    def rungs(self, max_steps: int, *, every: int) -> list[int]:
        """The steps, in order and below max_steps, at which a run pauses to be judged.

        Multiples of `every`, where runs evaluate anyway, as far as there are any.
        """

    @abstractmethod
    def promoted(self, trials: Sequence[Trial], *, all_known: bool) -> list[int]:
        """Of the paused trials the numbers of those that go on now, the most promising first."""

    @abstractmethod
    def dropped(self, trials: Sequence[Trial], *, all_known: bool) -> dict[int, str]:
        """Of the paused trials those that never go on, and why."""


@dataclass
class StoppingConfig(ABC):
    """Fields say when runs are judged, and how many of them stay."""

    name: str = MISSING

    @abstractmethod
    def build(self) -> Stopping | None:
        """The rule; None where every run goes to its end."""


def rungs_at(fractions: Iterable[float], max_steps: int, *, every: int) -> list[int]:
    """Steps at these fractions of a run, moved to multiples of `every` where that is possible."""
    steps = set()
    for fraction in fractions:
        step = round(fraction * max_steps / every) * every or round(fraction * max_steps)
        steps.add(max(step, 1))
    return sorted(step for step in steps if step < max_steps)


class Launcher(ABC):
    """Starts the runs of a sweep, each in a process of its own."""

    slots: int  # how many runs there are at once
    requeues = False  # whether a run that something else interrupted waits for its next turn
    threads: int | None  # CPU threads of a run that leaves them open; None where it has a GPU

    @abstractmethod
    def start(self, run: Path, command: Sequence[str]) -> None:
        """Start the command for the run in this folder; needs a free slot.

        What the process says goes to `process.log` in the folder.
        """

    @abstractmethod
    def ended(self) -> dict[Path, str | None]:
        """The runs whose process has ended since the last call.

        Beside each is how it died (a signal, a lost node), or None if it left by itself.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ask every process to save its run and end; called again, end them at once.

        Does not wait for them: `ended` tells.
        """


@dataclass
class LauncherConfig(ABC):
    """Fields say where the runs of a sweep run, and how many at once."""

    name: str = MISSING

    @abstractmethod
    def build(self, *, folder: Path, devices: Collection[str]) -> Launcher:
        """A launcher for a sweep's folder, whose runs ask for these `device.type`s.

        Raises UserError if what it needs is missing.
        """
