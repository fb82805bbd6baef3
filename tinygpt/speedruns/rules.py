"""The rules of a speedrun: each is checked by the program, and a broken one is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygpt.config.nested import flatten
from tinygpt.errors import UserError, as_typed
from tinygpt.records.read import RunRecord
from tinygpt.speedruns.entries import Entry
from tinygpt.speedruns.recount import Recount
from tinygpt.speedruns.tracks import Track

SEEDS = 3  # the fewest of a row of the leaderboard
TOLERANCE = 0.005  # bits per byte between the run's own last evaluation and the recount
_OF_A_SEED = ("seed", "output_dir", "cache_dir")  # differ between the runs of an entry


def broken(rule: str, about: str, what: str) -> UserError:
    """The error for a broken rule; `what` says the value, the limit and what to change."""
    return UserError(f"{about} breaks the rule {rule!r}: {what}")


def check_config(entry: Entry, track: Track, cfg: Mapping[str, Any], text: Path | None) -> None:
    """Raise UserError if an entry's whole config, as in config.yaml, is not one of its track.

    Settings that an experiment brings count as the entry's own.
    """
    about = str(entry.path)
    for name, value in track.dataset_fields(text).items():
        found = cfg["dataset"].get(name)
        if found != value:
            raise broken(
                "track's text",
                about,
                f"dataset.{name}={as_typed(found)} must be {as_typed(value)} on track={track.name}",
            )
    if (path := cfg["tokenizer"].get("path")) is not None:
        raise broken(
            "own vocabulary",
            about,
            f"tokenizer.path={path} was learned elsewhere; use tokenizer=char, bpe or byte",
        )
    if cfg["init_from"] is not None:
        raise broken("no outside weights", about, f"init_from={cfg['init_from']}; leave it out")
    for name in ("logger", "callback"):
        if cfg[name]:
            raise broken("nothing but training", about, f"{name}={','.join(cfg[name])}")
    if cfg["trainer"]["eval_bytes"] is not None:
        raise broken("whole validation", about, "trainer.eval_bytes must be null")
    if foreign := [name for name in cfg["components"] if name not in entry.modules]:
        raise broken(
            "own components",
            about,
            f"it uses {', '.join(foreign)}; list the file under components: of the entry",
        )


def check_run(
    about: str, entry: Entry, track: Track, cfg: Mapping[str, Any], run: RunRecord, recount: Recount
) -> None:
    """Raise UserError for the first rule that a finished run breaks.

    `cfg` is the config that was checked before the run began.
    """
    if run.status != "finished":
        raise broken("finished", about, f"the run is {run.status}; {run.error or run.path}")
    now, before = flatten(run.config), flatten(cfg)
    for name in sorted({*now, *before} - {*_OF_A_SEED}):
        if now.get(name) != before.get(name):
            raise broken(
                "settings as checked",
                about,
                f"the run has {name}={as_typed(now.get(name))}, and the entry "
                f"{as_typed(before.get(name))}",
            )
    if run.run.get("init_from") or run.run.get("resumed"):
        raise broken(
            "no outside weights", about, "the run did not begin at step 0 with random weights"
        )
    if foreign := [name for name in recount.foreign if name not in entry.modules]:
        raise broken(
            "own components",
            about,
            f"it uses {', '.join(foreign)} of an installed package; list a file under components:",
        )
    check_text(about, track, recount)
    check_loss(about, track, run, recount)


def check_text(about: str, track: Track, recount: Recount) -> None:
    """Raise UserError if the tokens of the run do not spell the track's text."""
    for split, found, wanted in (
        ("train", recount.train_sha256, track.train_sha256),
        ("validation", recount.validation_sha256, track.validation_sha256),
    ):
        if found != wanted:
            raise broken(
                "track's text",
                about,
                f"its {split} tokens spell a text with sha256 {found[:12]}, and track={track.name} "
                f"has {wanted[:12]}; the text and the tokenizer must keep every character",
            )
    if recount.copies:
        raise broken(
            "no validation text in training",
            about,
            f"{recount.copies} validation documents are in train, and the limit is 0",
        )
    if recount.shared_ngrams > track.shared_ngrams:
        raise broken(
            "no validation text in training",
            about,
            f"{recount.shared_ngrams:.4f} of validation's runs of 13 words are in train, and "
            f"track={track.name} allows {track.shared_ngrams:g}",
        )


def check_loss(about: str, track: Track, run: RunRecord, recount: Recount) -> None:
    """Raise UserError if the recount differs from what the run said, or misses the target."""
    metric = "val/bpb_ema" if flatten(run.config).get("trainer.ema") is not None else "val/bpb"
    said = run.metric(metric)
    if said is None or abs(said - recount.bits_per_byte) > TOLERANCE:
        raise broken(
            "loss as recounted",
            about,
            f"summary.json says {metric}={said}, and the last checkpoint has "
            f"{recount.bits_per_byte:.4f} bits per byte over the whole validation split; they may "
            f"differ by {TOLERANCE:g}",
        )


def check_target(about: str, track: Track, loss: float) -> None:
    """Raise UserError if a loss is above the track's target."""
    if loss > track.target:
        raise broken(
            "target",
            about,
            f"{loss:.4f} {track.unit} by the recount, and track={track.name} asks for at most "
            f"{track.target:g}; train longer, such as with a larger trainer.max_steps",
        )
