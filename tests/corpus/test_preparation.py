"""Interrupted preparation continues, damaged files are made again, a full disk loses nothing.

The test file is also the program that the tests start and kill: see `main` at its end.
"""

import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

import tinygpt
from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.byte import ByteConfig
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.config import PrepareConfig
from tinygpt.corpus import encoding, sharding
from tinygpt.corpus.prepared import Prepared, prepare
from tinygpt.corpus.shards import read_sealed, write_sealed
from tinygpt.errors import UserError
from tinygpt.interfaces import TokenizerConfig
from tinygpt.prepare import main as prepare_command

# what happens to files: who is killed at each of these is killed in any state of the files
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def silent(text: str) -> None: ...


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little text makes several shards of several batches."""
    monkeypatch.setattr(sharding, "SHARD_BYTES", 1200)
    monkeypatch.setattr(sharding, "BATCH_BYTES", 400)


@pytest.fixture
def cfg(tmp_path: Path) -> PrepareConfig:
    """Documents of 5 kB, that make five shards."""
    people, things = ("Ann", "Ben", "Cleo"), ("kite", "cake", "drum", "pear", "boîte 🙂")
    documents = [
        f"{people[i % 3]} has {i} {things[i % 5]}s. Does {people[(i + 1) % 3]} want one?"
        for i in range(160)
    ]
    (tmp_path / "gifts.txt").write_text("|".join(documents), encoding="utf-8")
    dataset = TextConfig(path=str(tmp_path / "gifts.txt"), separator="|")
    return PrepareConfig(
        dataset=dataset, tokenizer=CharConfig(), cache_dir=str(tmp_path / "cache"), workers=1
    )


@pytest.fixture
def whole(cfg: PrepareConfig, tmp_path: Path) -> dict[str, Any]:
    """The files that uninterrupted work makes."""
    data = prepare(replace(cfg, cache_dir=str(tmp_path / "whole")), silent)
    assert [len(info.shards) for info in data.splits.values()] == [5, 1]
    return contents(data.folder)


def contents(folder: Path) -> dict[str, Any]:
    """Every file, but for when it was made and where."""
    files: dict[str, Any] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            files[str(path.relative_to(folder))] = path.read_bytes()
    manifest = json.loads(files["manifest.json"])
    del manifest["created_at"], manifest["sha256"]
    files["manifest.json"] = manifest
    files["config.yaml"] = re.sub(rb"cache_dir:.*", b"", files["config.yaml"])
    return files


def killed(work: Callable[[], object], at: int, cache: str) -> bool:
    """Do the work in a process that is killed at one operation on the files of the cache."""

    def mortal() -> None:
        n = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal n
            if event in OPERATIONS and str(arguments[0]).startswith(cache):
                n += 1
                if n == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()

    process = multiprocessing.get_context("fork").Process(target=mortal)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def check_killed_at(cfg: PrepareConfig, at: int, whole: dict[str, Any]) -> bool:
    """Whether the work gets so far; if it does, that what is left is invisible and goes on."""
    shutil.rmtree(cfg.cache_dir, ignore_errors=True)
    if not killed(lambda: prepare(cfg, silent), at, cfg.cache_dir):
        return False
    folders = [path for path in Path(cfg.cache_dir).glob("*/*") if path.is_dir()]
    assert len(folders) <= 1
    for folder in folders:
        is_whole = folder.suffix != ".partial"
        assert not is_whole or contents(folder) == whole
    assert contents(prepare(cfg, silent).folder) == whole, f"killed at operation {at}"
    return True


@pytest.mark.parametrize("at", [3, 12, 21, 30, 43, 56])
def test_work_that_was_killed_continues_to_the_same_bytes(
    cfg: PrepareConfig, whole: dict[str, Any], at: int
) -> None:
    assert check_killed_at(cfg, at, whole)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [CharConfig(), BPEConfig(vocab_size=300)])
def test_work_killed_at_every_operation_on_a_file_continues_to_the_same_bytes(
    cfg: PrepareConfig, tmp_path: Path, tokenizer: Any
) -> None:
    cfg = replace(cfg, tokenizer=tokenizer)
    whole = contents(prepare(replace(cfg, cache_dir=str(tmp_path / "whole")), silent).folder)
    at = 1
    while check_killed_at(cfg, at, whole):
        at += 1
    print(f"{at - 1} kill points, all ended identical")
    assert at > 60


def test_work_that_is_killed_again_and_again_comes_to_its_end(
    cfg: PrepareConfig, whole: dict[str, Any]
) -> None:
    kills = 0
    while killed(lambda: prepare(cfg, silent), 60, cfg.cache_dir):
        kills += 1
        assert kills < 20
    assert kills >= 2
    assert contents(prepare(cfg, silent).folder) == whole


def test_finished_shards_are_kept_as_they_are(cfg: PrepareConfig) -> None:
    killed(lambda: prepare(cfg, silent), 58, cfg.cache_dir)
    (partial,) = Path(cfg.cache_dir).glob("*/*.partial")
    finished = {path.stem for path in partial.glob("train-*.json")}
    before = {p.name: p.stat().st_ino for p in partial.iterdir() if p.name[:11] in finished}
    assert len(before) > 2 * 4
    lines: list[str] = []
    folder = prepare(cfg, lines.append).folder
    assert {name: (folder / name).stat().st_ino for name in before} == before
    assert "  going on from what is finished" in lines
    assert not any("vocabulary" in line for line in lines)


def test_text_that_changed_is_not_mixed_with_what_was_finished(
    cfg: PrepareConfig, tmp_path: Path
) -> None:
    killed(lambda: prepare(cfg, silent), 58, cfg.cache_dir)
    text = tmp_path / "gifts.txt"
    text.write_text("Dan has no kite.|" + text.read_text())
    anew = prepare(replace(cfg, cache_dir=str(tmp_path / "anew")), silent)
    assert contents(prepare(cfg, silent).folder) == contents(anew.folder)


def test_a_source_that_moved_on_since_the_work_began_starts_over(
    cfg: PrepareConfig, whole: dict[str, Any]
) -> None:
    killed(lambda: prepare(cfg, silent), 58, cfg.cache_dir)
    (partial,) = Path(cfg.cache_dir).glob("*/*.partial")
    state = read_sealed(partial / "state.json")
    assert state
    write_sealed(partial / "state.json", {**state, "key": "that of another commit"})
    for path in partial.glob("train-*.bin"):  # its shards are sound, but they are of other text
        path.write_bytes(b"other")
    for path in partial.glob("train-*.json"):
        record = read_sealed(path)
        assert record
        other = xxhash.xxh3_128_hexdigest(b"other")
        write_sealed(path, {**record, "checksums": dict.fromkeys(record["checksums"], other)})
    lines: list[str] = []
    assert contents(prepare(cfg, lines.append).folder) == whole
    assert "  the text has changed since this was begun: starting over" in lines


# Too little text


@pytest.mark.parametrize("tokenizer", [ByteConfig(), CharConfig()])
def test_an_empty_validation_split_is_an_error_before_anything_is_encoded(
    tmp_path: Path, tokenizer: TokenizerConfig
) -> None:
    (tmp_path / "few.jsonl").write_text('{"text": "document 1"}\n{"text": "document 2"}\n')
    said: list[str] = []

    def prepared(fraction: float) -> Prepared:
        dataset = TextConfig(path=str(tmp_path / "few.jsonl"), validation_fraction=fraction)
        cfg = PrepareConfig(dataset=dataset, tokenizer=tokenizer, cache_dir=str(tmp_path / "cache"))
        return prepare(cfg, said.append)

    with pytest.raises(UserError, match=r"no document for validation; type 0\.\d+") as error:
        prepared(0.1)
    assert not any("vocabulary" in line or "train:" in line for line in said)
    assert not list((tmp_path / "cache").glob("*/*/"))
    advised = float(str(error.value).split("type ")[1].split(" ")[0])
    assert prepared(advised).splits["validation"].documents == 1


def test_the_default_vocabulary_shrinks_to_what_a_short_text_supports(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a cat sat on the mat. " * 20)
    said: list[str] = []

    def prepared(**fields: Any) -> Prepared:
        dataset = TextConfig(path=str(tmp_path / "short.txt"))
        cfg = PrepareConfig(
            dataset=dataset, tokenizer=BPEConfig(**fields), cache_dir=str(tmp_path / "cache")
        )
        return prepare(cfg, said.append)

    n = prepared().tokenizer.vocab_size
    assert 258 < n < 400
    assert f"  the text supports a vocabulary of {n:,}, not of 4,096" in said
    assert prepared(vocab_size=n).tokenizer.vocab_size == n
    with pytest.raises(UserError, match=rf"vocab_size=5000 is too large .*vocab_size={n}$"):
        prepared(vocab_size=5000)


# Damage, found and mended


FILES = [
    "manifest.json",
    "train-00000.tokens.bin",
    "train-00002.tokens.bin",
    "train-00004.documents.bin",
    "train-00001.digests.bin",
    "validation-00000.tokens.bin",
    "validation-00000.documents.bin",
    "tokenizer/tokenizer.json",
]


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        *(("flipped", file) for file in FILES),
        *(("truncated", FILES[1]), ("gone", FILES[0]), ("gone", FILES[-1])),
        # as files that are flipped, and as one of these
        *(
            pytest.param(damage, file, marks=pytest.mark.slow)
            for damage, fast in (("truncated", FILES[1:2]), ("gone", (FILES[0], FILES[-1])))
            for file in FILES
            if file not in fast
        ),
    ],
)
def test_damage_is_named_and_mended_by_the_command_that_the_error_prints(
    cfg: PrepareConfig,
    whole: dict[str, Any],
    file: str,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = prepare(cfg, silent).folder
    path = folder / file
    inodes = {p.name: p.stat().st_ino for p in folder.glob("*.tokens.bin") if p != path}
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:-2] if damage == "truncated" else content)
    if damage == "gone":
        path.unlink()
    (folder / "config.yaml").write_text("damaged too")
    if (file, damage) == ("manifest.json", "gone"):  # as far as anyone can tell never finished
        prepare(cfg, silent)
    else:
        with pytest.raises(UserError) as error:
            prepare(cfg, silent)
        named = path.parent if file.startswith("tokenizer") else path
        reason, command = str(error.value).splitlines()
        assert reason == (f"{named} is damaged: it is not what was written; to make it again type")
        python, flag, module, *settings = shlex.split(command)
        assert [python, flag, module] == ["python", "-m", "tinygpt.prepare"]
        prepare_command(settings)
        assert f"{named} is damaged" in capsys.readouterr().out
    assert contents(folder) == whole
    stem = re.sub(r"\..*", "", path.name)
    kept = {name: (folder / name).stat().st_ino for name in inodes if not name.startswith(stem)}
    assert kept == {name: inodes[name] for name in kept}
    assert len(kept) >= 5
    assert prepare(cfg, silent).folder == folder


@pytest.mark.parametrize(
    ("name", "value"),
    [("utf8_bytes", 6), ("entropy_bits", 1.0), ("tokens", 10), ("documents", 3)],
)
def test_a_changed_number_in_the_manifest_is_damage(
    cfg: PrepareConfig, name: str, value: float
) -> None:
    path = prepare(cfg, silent).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["validation"][name] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        prepare(cfg, silent)


def test_the_tokenizer_of_other_tokens_is_damage(cfg: PrepareConfig, whole: dict[str, Any]) -> None:
    folder = prepare(cfg, silent).folder
    CharConfig().train(iter(["other text"])).save(folder / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer is damaged: .*\n.* tinygpt\.prepare "):
        prepare(cfg, silent)
    with pytest.raises(UserError, match=r"tokenizer is damaged"):
        Prepared(folder, CharConfig().load(folder / "tokenizer"))
    assert contents(prepare(cfg, silent, repair=True).folder) == whole


def test_what_cannot_be_mended_in_place_is_made_anew(
    cfg: PrepareConfig, whole: dict[str, Any]
) -> None:
    folder = prepare(cfg, silent).folder
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"?")
    with pytest.raises(UserError, match="is damaged"):
        prepare(cfg, silent)
    assert contents(prepare(cfg, silent, repair=True).folder) == whole


# The disk


def in_namespace(*arguments: object) -> subprocess.CompletedProcess[str]:
    """This file as a process that may mount; skips where the system forbids it."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("a small file system is mounted in a user namespace")
    return run_this_file(*arguments, before=unshare)


def run_this_file(*arguments: object, before: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(tinygpt.__file__).parents[1])},
        check=False,
    )


def test_a_full_disk_keeps_what_is_finished_and_more_room_ends_the_work(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("|".join(f"Story {i} of many. " * 20 for i in range(3000)))
    (tmp_path / "disk").mkdir()
    done = in_namespace("full", tmp_path / "disk", text)
    assert done.returncode == 0, done.stderr
    refused, full, left, finished = done.stdout.splitlines()[-4:]
    assert re.fullmatch(
        r"cache_dir=\S+ has 0\.\d MB of disk free, and the tokens need about [01]\.\d MB; "
        r"make room, or type cache_dir=FOLDER on a larger disk",
        refused,
    )
    assert re.fullmatch(
        r"the disk of cache_dir=\S+ is full: about [01]\.\d MB more are needed, 0\.\d MB are free; "
        r"make room and type the same again, which goes on from what is finished, or type "
        r"cache_dir=FOLDER on a larger disk",
        full,
    )
    assert left == "True False"  # finished shards, unfinished ones
    assert finished == "True True"  # the same bytes, and shards that were kept


def full(disk: Path, text: Path) -> None:
    """Fill a small file system, make it larger, and go on."""

    def size(kilobytes: int, *, options: str = "remount,") -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={kilobytes}k", "tmpfs", str(disk)]
        subprocess.run(command, check=True)

    sharding.SHARD_BYTES, sharding.BATCH_BYTES = 100_000, 10_000
    dataset = TextConfig(path=str(text), separator="|")
    cfg = PrepareConfig(dataset=dataset, tokenizer=CharConfig(), cache_dir=str(disk), workers=1)
    size(100, options="")
    errors = []
    for kilobytes in (100, 1600):
        size(kilobytes)
        try:
            prepare(cfg, print)
        except UserError as error:
            errors.append(str(error))
    partial = next(disk.glob("*/*.partial"))
    left = any(partial.glob("train-*.json")), any(partial.rglob("*.partial"))
    inodes = {path.stat().st_ino for path in partial.glob("train-*.tokens.bin")}
    size(20_000)
    folder = prepare(cfg, print).folder
    cache = text.parent / "cache"
    same = contents(folder) == contents(prepare(replace(cfg, cache_dir=str(cache)), print).folder)
    kept = inodes <= {path.stat().st_ino for path in folder.glob("train-*.tokens.bin")}
    print(*errors, sep="\n")
    print(*left)
    print(same, kept)


# Several processes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_work_of_several_processes_killed_at_random_moments_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, cache = tmp_path / "text.txt", tmp_path / "cache"
    text.write_text("|".join(f"Story {i} of many 🙂. " * 20 for i in range(2000)))
    monkeypatch.setattr(sharding, "SHARD_BYTES", WORK_BYTES)
    monkeypatch.setattr(sharding, "BATCH_BYTES", WORK_BYTES)
    whole = contents(prepare(work_config(tmp_path / "whole", text), silent).folder)
    rng = random.Random(0)
    kills = 50
    for _ in range(kills):
        shutil.rmtree(cache, ignore_errors=True)
        victim = subprocess.Popen(
            [sys.executable, __file__, "work", str(cache), str(text)],
            env=os.environ | {"PYTHONPATH": str(Path(tinygpt.__file__).parents[1])},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        n_files = rng.randrange(len(whole) - 10)
        while sum(1 for _ in cache.rglob("*.*")) < n_files:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.killpg(victim.pid, signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        # encoded in this process, which gives the same
        assert contents(prepare(work_config(cache, text), silent).folder) == whole
    print(f"{kills} kills, all ended identical")


WORK_BYTES = 30_000


def work_config(cache: Path, text: Path) -> PrepareConfig:
    dataset = TextConfig(path=str(text), separator="|")
    tokenizer = BPEConfig(vocab_size=300)
    return PrepareConfig(dataset=dataset, tokenizer=tokenizer, cache_dir=str(cache), workers=2)


def work(cache: Path, text: Path) -> None:
    """Prepare with two processes from the first batch on."""
    sharding.SHARD_BYTES = sharding.BATCH_BYTES = WORK_BYTES
    encoding._ALONE_S = 0.0
    prepare(work_config(cache, text), print)


if __name__ == "__main__":
    {"full": full, "work": work}[sys.argv[1]](*map(Path, sys.argv[2:]))
