"""Entries of a speedrun: what a file may say, and what its track decides."""

from pathlib import Path

import pytest

from tinygpt.config import compose, overrides
from tinygpt.config.choices import CONF
from tinygpt.errors import UserError
from tinygpt.speedruns import entries, leaderboard
from tinygpt.speedruns.tracks import TRACKS

BOARD = CONF.parent / "experiments" / "speedrun"
STORYWORLD = TRACKS["storyworld"]
GOOD = "name: mine\nauthor: A. Student\nidea: fewer layers\ndate: 2026-11-29\n"


def entry(folder: Path, text: str = GOOD, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        entries.read(path, STORYWORLD)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_an_entry_has_a_name_an_author_an_idea_a_date_and_settings(tmp_path: Path) -> None:
    (tmp_path / "my_optimizer.py").touch()
    text = "settings: [model=nano, dataset.window=document]\ncomponents: [my_optimizer.py]\n"
    found = entries.read(entry(tmp_path, GOOD + text), STORYWORLD)
    assert (found.name, found.author, found.idea) == ("mine", "A. Student", "fewer layers")
    assert found.date == "2026-11-29"
    assert found.settings == ["model=nano", "dataset.window=document"]
    assert found.modules == ["my_optimizer"]
    assert list(found.sha256) == ["mine.yaml", "my_optimizer.py"]


FIXED = [
    ("dataset=text", "the track's text is the same for all"),
    ("dataset.train_stories=5", "the track's text is the same for all"),
    ("+dataset.seed=1", "the track's text is the same for all"),
    ("seed=7", "seeds= of the command sets it"),
    ("init_from=outputs/RUN", "a run begins with random weights"),
    ("trainer.eval_bytes=1000", "the whole validation split is evaluated"),
    ("tokenizer.path=bpe.json", "a vocabulary is learned within the time"),
    ("cache_dir=prepared", "the command chooses the folders"),
    ("name=other", "the entry's name, idea and author say this"),
    ("callback=[early_stop]", "the clock measures training alone"),
    ("callback.early_stop.patience=1", "the clock measures training alone"),
    ("~logger", "the clock measures training alone"),
    ("components=[os]", "files of the entry are listed under its own `components:`"),
    ("config_file=other.yaml", "an entry is complete in its file"),
    ("resume=latest", "a run is timed from its start to its end"),
]


def test_what_the_track_decides_is_refused_by_name(tmp_path: Path) -> None:
    for setting, why in FIXED:
        said = refusal(entry(tmp_path, f"{GOOD}settings: ['model=nano', '{setting}']\n"))
        assert said.startswith(f"{setting} is not an entry's to choose: {why}"), said
        assert said.endswith("; leave it out")


MISTAKES = [  # torch.py and sitecustomize.py lie beside the entry
    (GOOD + "settings: ['optimizer.lr=1e-3,3e-3']", "optimizer.lr=1e-3,3e-3 lists several"),
    (GOOD + "settings: ['-m']", "'-m' is not understood"),
    (GOOD + "settings: {model: nano}", "settings: must be a list of texts"),
    (GOOD + "setings: []", "setings is not a field of an entry; did you mean settings?"),
    (GOOD + "components: [os]", "components: os must be the name of a .py file"),
    (GOOD + "components: [../evil.py]", "components: ../evil.py must be the name of a .py"),
    (GOOD + "components: [nowhere.py]", "components: "),
    (GOOD.replace("2026-11-29", "soon"), "date: is 'soon'; write the day, such as date: "),
    (GOOD.replace("fewer layers", "x" * 201), "idea: is "),
    (GOOD.replace("fewer layers", '"two\\u2028lines"'), "idea: is 'two"),
    (GOOD + "components: [torch.py]", "components: torch.py would take the place of the module"),
    (GOOD + "components: [sitecustomize.py]", "components: sitecustomize.py would take the place"),
    (GOOD.replace("author: A. Student\n", ""), "author: is missing; write one line of 1 to 80"),
    (GOOD.replace("mine", "Other"), "name: Other must be the file's name without .yaml"),
]


def test_a_mistake_in_an_entry_is_named(tmp_path: Path) -> None:
    for name in ("torch.py", "sitecustomize.py"):
        (tmp_path / name).touch()
    for text, said in MISTAKES:
        assert refusal(entry(tmp_path, text)).startswith(said), said


def test_an_entry_is_found_by_its_name_or_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "entries" / "storyworld"
    folder.mkdir(parents=True)
    path = entry(folder)
    assert entries.find("mine", STORYWORLD, tmp_path) == path
    assert entries.find(str(path), STORYWORLD, tmp_path) == path
    with pytest.raises(UserError, match=r"did you mean entry=mine\?\n  entries in .*: mine"):
        entries.find("mime", STORYWORLD, tmp_path)
    (tmp_path / "other").mkdir()
    twin = entry(tmp_path / "other")
    assert len(entries.read_all(["mine", str(path)], STORYWORLD, tmp_path)) == 1
    with pytest.raises(UserError, match="have one name; rename one of the files"):
        entries.read_all(["mine", str(twin)], STORYWORLD, tmp_path)


@pytest.mark.parametrize(
    "path",
    sorted(BOARD.glob("entries/*/*.yaml")),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_the_entries_of_the_board_compose(path: Path) -> None:
    track = TRACKS[path.parent.name]
    found = entries.read(path, track)
    text = Path("input.txt") if "path" in track.dataset_fields(None) else None
    settings = [*found.settings, *track.settings(text)]
    assert found.components or compose.compose("train", overrides.jobs(settings, multirun=False)[0])


def test_the_tables_of_the_board_are_those_of_its_rows() -> None:
    rows = leaderboard.read(BOARD)
    assert (BOARD / leaderboard.TABLES).read_text("utf-8") == leaderboard.markdown(rows)
    for one in rows:
        assert (BOARD / one["file"]).is_file()
