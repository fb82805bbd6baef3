"""Prepared tokens: the numbers of `tinygpt.data`, and documents with the borders of tokens."""

import pytest

from tinygpt.config import PrepareConfig, compose
from tinygpt.corpus.prepared import prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_in):
    folder = tmp_path_factory.mktemp("data")
    settings = [s for s in tiny_in(folder) if s.startswith("dataset")]
    settings.append(f"cache_dir={folder / 'nothing else'}")
    cfg = compose.compose("prepare", [*settings, "tokenizer=byte", "workers=1"])
    assert isinstance(cfg, PrepareConfig)
    return prepare(cfg, lambda text: None)


@pytest.fixture(scope="module")
def server(serve, prepared, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("none"), cache_dir=prepared.folder.parents[1]) as running:
        yield running


@pytest.fixture(scope="module")
def set_id(prepared):
    return f"{prepared.folder.parent.name}/{prepared.folder.name}"


def test_the_sets_are_listed_with_their_splits(server, prepared, set_id):
    (found,) = server.get("/api/data").json["sets"]
    assert (found["id"], found["dataset"], found["tokenizer"]) == (set_id, "text", "byte")
    info = prepared.splits["train"]
    assert found["splits"]["train"]["tokens"] == info.tokens
    assert found["splits"]["train"]["documents"] == info.documents
    assert found["vocab_size"] == 257


def test_documents_come_with_the_borders_of_their_tokens(server, prepared, set_id):
    ask = f"/api/data/documents?id={set_id}&split=train&from=1&n=2"
    found = server.get(ask).json
    texts = list(prepared.documents("train", limit=3))[1:]
    assert [item["index"] for item in found["items"]] == [1, 2]
    assert ["".join(text for text, _ in item["tokens"]) for item in found["items"]] == texts
    assert found["documents"] == prepared.splits["train"].documents
    assert server.get(f"{ask}0000").status == 400
    assert server.get(f"/api/data/documents?id={set_id}&from=99999").json["items"] == []


def test_a_set_is_inspected(server, set_id):
    found = server.get(f"/api/data/inspect?id={set_id}").json
    lengths = found["lengths"]["train"]
    assert lengths["tokens"] == lengths["characters"]  # a byte a character
    assert found["vocabulary"]["size"] == 257
    assert 1 < found["vocabulary"]["used"] < 60
    assert len(found["copies"]) > 1


@pytest.mark.parametrize("name", ["..", "text/nothing", "../../etc", "", "text"])
def test_what_is_not_a_set_is_not_found(server, name):
    for door in ("inspect", "documents"):
        assert server.get(f"/api/data/{door}?id={name}").status == 404
