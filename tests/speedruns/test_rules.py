"""The rules of a speedrun, each broken by a run that was trained here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.speedruns.tiny import ENTRY, tiny_track
from tinygpt import config, train
from tinygpt.config import overrides
from tinygpt.errors import UserError
from tinygpt.interchange import starting
from tinygpt.records.read import file_checksums, read_run
from tinygpt.speedruns import entries, rules
from tinygpt.speedruns.entries import Entry
from tinygpt.speedruns.recount import Recount, recount


class Trained:
    """A finished run of an entry, with all that its rules are checked with."""

    def __init__(self, folder: Path) -> None:
        self.track = tiny_track()
        path = folder / "fast.yaml"
        path.write_text(ENTRY)
        self.entry: Entry = entries.read(path, self.track)
        settings = [*self.entry.settings, *self.track.settings(None)]
        (job,) = overrides.jobs(settings, multirun=False)
        self.config: dict[str, Any] = config.to_dict(starting.compose_run(job))
        own = [f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}", "seed=1"]
        with pytest.raises(SystemExit) as end:
            train.main([*settings, *own])
        assert end.value.code == 0
        (self.run,) = (file.parent for file in (folder / "outputs").glob("*/run.json"))
        self.recount: Recount = recount(self.run)

    def check(self, run: Path | None = None, **changes: Any) -> None:
        known = replace(self.recount, **changes)
        record = read_run(run or self.run)
        rules.check_run("fast seed=1", self.entry, self.track, self.config, record, known)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("speedrun"))


@pytest.fixture
def forged(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return shutil.copytree(trained.run, tmp_path / "run")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def breaks(rule: str, check: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as raised:
        check(*arguments, **named)
    about, _, what = str(raised.value).partition(f" breaks the rule {rule!r}: ")
    assert what, raised.value
    return f"{about}: {what}"


def test_an_honest_run_keeps_every_rule(trained: Trained) -> None:
    rules.check_config(trained.entry, trained.track, trained.config, None)
    trained.check()
    rules.check_target("fast seed=1", trained.track, trained.recount.bits_per_byte)


def test_the_recount_is_the_loss_that_training_said(trained: Trained) -> None:
    said = read_run(trained.run).metric("val/bpb")
    assert trained.recount.bits_per_byte == pytest.approx(said, abs=1e-5)
    assert trained.recount.copies == 0
    assert trained.recount.shared_ngrams == 0  # of so few stories
    assert trained.recount.utf8_bytes == trained.recount.characters  # storyworld is ASCII
    assert trained.recount.foreign == []


def test_a_forged_summary_is_found_by_its_checksum_or_by_the_recount(
    trained: Trained, forged: Path
) -> None:
    change(forged / "summary.json", **{"val/bpb": 1.0})
    said = breaks("finished", trained.check, forged)
    assert said.endswith("the run is damaged; summary.json was changed after the run ended")
    change(forged / "run.json", files=file_checksums(forged))
    said = breaks("loss as recounted", trained.check, forged)
    assert said == (
        "fast seed=1: summary.json says val/bpb=1.0, and the last checkpoint has "
        f"{trained.recount.bits_per_byte:.4f} bits per byte over the whole validation split; "
        "they may differ by 0.005"
    )


def test_a_run_that_was_resumed_or_began_with_weights_is_refused(
    trained: Trained, forged: Path
) -> None:
    change(forged / "run.json", resumed=[{"at": "2026-11-29"}])
    breaks("no outside weights", trained.check, forged)
    change(forged / "run.json", resumed=[], init_from={"path": "other"})
    said = breaks("no outside weights", trained.check, forged)
    assert said == "fast seed=1: the run did not begin at step 0 with random weights"


def test_a_run_with_another_setting_than_was_checked_is_refused(
    trained: Trained, forged: Path
) -> None:
    cfg = json.loads((forged / "run.json").read_text())["config"]
    cfg["optimizer"]["lr"] = 0.5
    change(forged / "run.json", config=cfg)
    said = breaks("settings as checked", trained.check, forged)
    assert said == "fast seed=1: the run has optimizer.lr=0.5, and the entry 0.001"


def test_a_run_that_has_not_finished_is_refused(trained: Trained, forged: Path) -> None:
    change(forged / "run.json", status="interrupted", error="SIGTERM")
    said = breaks("finished", trained.check, forged)
    assert said == "fast seed=1: the run is interrupted; SIGTERM"


def test_validation_text_in_training_is_refused(trained: Trained) -> None:
    said = breaks("no validation text in training", trained.check, copies=2)
    assert said == "fast seed=1: 2 validation documents are in train, and the limit is 0"
    said = breaks("no validation text in training", trained.check, shared_ngrams=0.7)
    assert said == (
        "fast seed=1: 0.7000 of validation's runs of 13 words are in train, and track=tiny "
        "allows 0.5"
    )


def test_other_text_than_the_tracks_is_refused(trained: Trained) -> None:
    said = breaks("track's text", trained.check, validation_sha256="ab" * 32)
    assert said.startswith(
        "fast seed=1: its validation tokens spell a text with sha256 abababababab, and track=tiny "
        f"has {trained.track.validation_sha256[:12]}"
    )
    breaks("track's text", trained.check, train_sha256="ab" * 32)


def test_components_of_an_installed_package_are_refused(trained: Trained) -> None:
    said = breaks("own components", trained.check, foreign=["some_package.optimizer"])
    assert said.startswith("fast seed=1: it uses some_package.optimizer of an installed package")


def test_a_loss_above_the_target_is_refused(trained: Trained) -> None:
    said = breaks("target", rules.check_target, "fast seed=1", trained.track, 9.5)
    assert said == (
        "fast seed=1: 9.5000 bits per byte by the recount, and track=tiny asks for at most 9; "
        "train longer, such as with a larger trainer.max_steps"
    )


@pytest.mark.parametrize(
    ("rule", "group", "value", "said"),
    [
        (
            "track's text",
            "dataset",
            {"train_stories": 30},
            "dataset.train_stories=30 must be",
        ),
        (
            "own vocabulary",
            "tokenizer",
            {"path": "bpe"},
            "tokenizer.path=bpe was learned",
        ),
        ("no outside weights", "init_from", "outputs/RUN", "init_from=outputs/RUN; leave it out"),
        ("nothing but training", "callback", {"early_stop": {}}, "callback=early_stop"),
        ("whole validation", "trainer", {"eval_bytes": 5}, "trainer.eval_bytes must be null"),
        (
            "own components",
            "components",
            ["other"],
            "it uses other; list the file",
        ),
    ],
)
def test_what_an_experiment_may_bring_is_checked_as_well(
    trained: Trained, rule: str, group: str, value: Any, said: str
) -> None:
    own = trained.config[group]
    changed = own | value if isinstance(own, dict) and isinstance(value, dict) else value
    cfg = trained.config | {group: changed}
    told = breaks(rule, rules.check_config, trained.entry, trained.track, cfg, None)
    assert told.startswith(f"{trained.entry.path}: {said}")


def test_with_averaged_weights_their_loss_counts(trained: Trained, forged: Path) -> None:
    cfg = json.loads((forged / "run.json").read_text())["config"]
    cfg["trainer"]["ema"] = 0.9
    change(forged / "summary.json", **{"val/bpb": 0.1, "val/bpb_ema": 0.5})
    change(forged / "run.json", config=cfg, files=file_checksums(forged))
    same = replace(trained.recount, bits_per_byte=0.5)
    rules.check_loss("fast seed=1", trained.track, read_run(forged), same)


def test_a_track_measures_per_character_where_it_says_so() -> None:
    track = replace(tiny_track(), per_character=True)
    assert track.loss(1.0, characters=50, utf8_bytes=100) == pytest.approx(2 * 0.693147, abs=1e-5)
    assert tiny_track().loss(1.0, characters=50, utf8_bytes=100) == 1.0
