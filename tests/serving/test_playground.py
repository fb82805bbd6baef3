"""Text token by token, and the tokens of a text, as the engine has them."""

import base64
import threading
import time

import pytest

import tinygpt


@pytest.fixture(scope="module")
def run(trained, model):
    return tinygpt.load(trained / model, device="cpu")


def written(server, **body):
    with server.stream("POST", "/api/generate", body) as events:
        return [data for _, data in events]


def test_a_text_is_the_same_as_the_command_writes(model_server, model, run):
    settings = {"max_new_tokens": 30, "seed": 3, "temperature": 0.9}
    found = written(model_server, id=model, prompt="Ann é", top=2, **settings)
    start = next(event for event in found if "start" in event)
    tokens = [event for event in found if "token_id" in event]
    (sample,) = run.samples("Ann é", logprobs=2, **settings)
    assert start["prompt_ids"] == run.tokenizer.encode("Ann é")
    assert [event["token_id"] for event in tokens] == sample.tokens
    assert "".join(event["text"] for event in found if "text" in event) == sample.text
    assert [event["logprob"] for event in tokens] == pytest.approx(sample.logprobs, abs=1e-5)
    assert [event["top"][0][2] for event in tokens] == [top[0][0] for top in sample.top]
    data = b"".join(base64.b64decode(event["bytes"]) for event in tokens)
    assert data == run.tokenizer.decode_bytes(sample.tokens)
    assert (found[-1]["done"], found[-1]["n_tokens"]) == (sample.reason, len(sample.tokens))


def test_a_prompt_of_ids_branches_from_a_token_and_may_begin_with_end_of_text(model_server, model):
    ids = [ord("A") + 1, ord("n") + 1]
    same = {"id": model, "temperature": 0, "max_new_tokens": 5, "ignore_eot": True}
    first = written(model_server, **same, prompt_ids=ids)[-6:]
    second = written(model_server, **same, prompt_ids=[0, *ids])[-6:]
    assert [e.get("token_id") for e in first] == [e.get("token_id") for e in second]


def test_the_tokens_of_a_text_have_the_models_probabilities(model_server, model, run):
    text = "Ann gives Ben the cake, and é"  # longer than the window of 16
    found = model_server.post("/api/score", {"id": model, "text": text, "top": 3}).json
    assert [t["logprob"] for t in found["tokens"]] == pytest.approx(
        [token.logprob for token in run.logprobs(text)], abs=1e-4
    )
    assert b"".join(base64.b64decode(t["bytes"]) for t in found["tokens"]).decode() == text
    assert all(len(token["top"]) == 3 for token in found["tokens"])
    assert found["tokens"][-1]["text"] == "<A9>"
    again = model_server.post("/api/score", {"id": model, "ids": [1 + ord("A")]}).json
    assert again["tokens"][0]["logprob"] == pytest.approx(found["tokens"][0]["logprob"], abs=1e-6)


def test_the_text_stops_when_its_reader_leaves(model_server, model):
    body = {"id": model, "max_new_tokens": 4096, "ignore_eot": True}
    with model_server.stream("POST", "/api/generate", body) as events:
        next(event for _, event in events if "token_id" in event)
        (loaded,) = model_server.services.models.loaded
        assert loaded.n_texts == 1
    end = time.monotonic() + 5
    while loaded.n_texts and time.monotonic() < end:
        time.sleep(0.02)
    assert loaded.n_texts == 0
    assert 'texts_total{reason="cancelled"}' in model_server.get("/metrics").body.decode()


def test_many_at_once_get_what_each_gets_alone(model_server, model, run):
    texts: dict[int, str] = {}

    def ask(seed: int) -> None:
        found = written(model_server, id=model, prompt="Ben", seed=seed, max_new_tokens=20)
        texts[seed] = "".join(event["text"] for event in found if "text" in event)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {s: run.generate("Ben", seed=s, max_new_tokens=20)[0] for s in range(24)}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": 3}, "send prompt: a text"),
        ({"prompt_ids": [9999]}, "ids are from 0 to 256"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": "hot"}, "temperature=hot is of the wrong type"),
        ({"max_new_tokens": 10**6}, "at most 4,096"),
        ({"top": 10**6}, "from 0 to 20"),
        ({"stop": [""]}, "empty text"),
        ({"logit_bias": {"x": 1}}, "logit_bias must be"),
        ({"temprature": 1}, "did you mean temperature?"),
        ({"checkpoint": "../best"}, "best or latest"),
        ({"prompt": "x" * 200_001}, "200,001 characters"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(model_server, model, body, words):
    answer = model_server.post("/api/generate", {"id": model, **body})
    assert words in answer.body.decode()
    assert b"token_id" not in answer.body


def test_a_run_without_a_checkpoint_says_so(model_server, trained):
    from tests.runs_on_disk import make_run

    make_run(trained / "2026_empty", exist_ok=True)
    try:
        answer = model_server.post("/api/score", {"id": "2026_empty", "text": "a"})
        assert answer.status == 400
    finally:
        import shutil

        shutil.rmtree(trained / "2026_empty")
