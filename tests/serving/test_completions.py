"""OpenAI's API, spoken by OpenAI's own client."""

import json
import re
import threading

import pytest

import tinygpt


@pytest.fixture(scope="module")
def openai():
    import openai  # takes a second

    return openai


@pytest.fixture(scope="module")
def client(openai, model_server):
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{model_server.port}/v1", api_key="none", max_retries=0
    ) as made:
        yield made


@pytest.fixture(scope="module")
def run(trained, model):
    return tinygpt.load(trained / model, device="cpu")


def test_models_are_the_runs_with_a_checkpoint(openai, client, model):
    (listed,) = client.models.list().data
    assert (listed.id, client.models.retrieve(model).id) == (model, model)
    with pytest.raises(openai.NotFoundError, match="did you mean"):
        client.completions.create(model=model[:-1], prompt="a")


def test_a_completion_is_what_the_engine_writes_and_a_seed_repeats_it(client, model, run):
    asked = {"model": model, "prompt": "Ann has", "max_tokens": 12, "seed": 5, "temperature": 0.7}
    found = client.completions.create(**asked)
    settings = {"max_new_tokens": 12, "seed": 5, "temperature": 0.7, "top_k": None}
    (expected,) = run.samples("Ann has", **settings)
    (choice,) = found.choices
    assert choice.text == expected.text
    assert choice.finish_reason == {"eot": "stop", "length": "length"}[expected.reason]
    assert found.usage.completion_tokens == len(expected.tokens)
    assert found.usage.prompt_tokens == 7
    assert client.completions.create(**asked).choices[0].text == choice.text


def test_several_prompts_and_choices_come_in_order(client, model, run):
    prompts = [run.tokenizer.encode("Ann"), run.tokenizer.encode("Ben says")]
    asked = {"n": 2, "max_tokens": 5, "seed": 1, "temperature": 1.5}
    found = client.completions.create(model=model, prompt=prompts, **asked)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    as_text = client.completions.create(model=model, prompt=["Ann", "Ben says"], **asked)
    assert [c.text for c in found.choices] == [c.text for c in as_text.choices]
    assert found.choices[0].text != found.choices[1].text


def test_a_stream_has_whole_characters_and_the_same_text(client, model):
    asked = {"model": model, "prompt": "é", "max_tokens": 40, "seed": 2, "temperature": 3.0}
    whole = client.completions.create(**asked)
    parts = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1]
    assert parts[-1].usage == whole.usage


def test_the_prompt_is_echoed_with_its_probabilities(client, model, run):
    found = client.completions.create(
        model=model, prompt="Ben é", max_tokens=1, logprobs=2, echo=True, temperature=0, seed=1
    )
    (choice,) = found.choices
    expected = [token.logprob for token in run.logprobs("Ben é")]
    listed = choice.logprobs
    assert choice.text.startswith("Ben é")
    assert listed.token_logprobs[:6] == pytest.approx(expected, abs=1e-4)
    assert listed.tokens[:6] == ["B", "e", "n", " ", "bytes:\\xc3", "bytes:\\xa9"]
    assert listed.text_offset[:6] == [0, 1, 2, 3, 4, 4]
    assert len(listed.tokens) == 7
    assert max(listed.top_logprobs[6].values()) == listed.token_logprobs[6]
    only = client.completions.create(
        model=model, prompt=[0, *run.tokenizer.encode("Ben é")], max_tokens=0, logprobs=0, echo=True
    )
    assert only.choices[0].logprobs.tokens[0] == "<|endoftext|>"
    assert only.choices[0].logprobs.token_logprobs == [None, *listed.token_logprobs[:6]]


def test_a_stop_string_ends_the_text_before_it(client, model):
    asked = {"model": model, "prompt": "Ann", "max_tokens": 60, "seed": 0}
    asked["extra_body"] = {"ignore_eot": True}
    text = client.completions.create(**asked).choices[0].text
    stop = re.search(r"[ -~]{2,3}", text[5:])[0]
    found = client.completions.create(**asked, stop=[stop]).choices[0]
    assert (found.text, found.finish_reason) == (text[: text.index(stop)], "stop")
    parts = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(part.choices[0].text for part in parts) == found.text


@pytest.mark.parametrize(
    ("asked", "words", "param"),
    [
        ({"prompt": "x" * 100}, "context is 16 tokens", "prompt"),
        ({"prompt": [300]}, "ids are from 0 to 256", "prompt"),
        ({"prompt": [[]]}, "a list of ids", "prompt"),
        ({"temperature": -1}, "temperature=-1.0 must be at least 0", "temperature"),
        ({"n": 500}, "from 1 to 128", "n"),
        ({"max_tokens": 10**9}, "from 0 to 4096", "max_tokens"),
        ({"best_of": 3}, "best_of must be n", "best_of"),
        ({"extra_body": {"tmperature": 1}}, "did you mean temperature", "tmperature"),
    ],
)
def test_errors_have_openais_form(openai, client, model, asked, words, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": model, "prompt": "a", **asked})
    assert words in caught.value.body["message"]
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"


def test_the_missing_chat_says_what_to_use(openai, client, model):
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])


def test_fifty_at_once_are_all_answered(model_server, model):
    answers = []

    def ask(seed):
        body = {"model": model, "prompt": "Cleo", "max_tokens": 10, "seed": seed}
        answers.append(model_server.post("/v1/completions", body))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 50


def test_the_api_describes_itself_and_every_route_is_in_it(model_server):
    described = json.loads(model_server.get("/openapi.json").body)["paths"]
    page = model_server.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path, methods in described.items():
        assert path.encode() in page.body
        for method in methods:
            answer = model_server.send(method.upper(), path) if path != "/api/events" else None
            assert answer is None or answer.status in (200, 400, 415), (path, answer.status)
