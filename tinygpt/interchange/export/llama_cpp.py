"""llama.cpp in this process through xllamacpp, to check a GGUF file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener


class LlamaCpp:
    """A server of llama.cpp with a model; computes in fp32 with one thread.

    Raises ImportError without xllamacpp, and RuntimeError for a file that llama.cpp refuses.
    """

    def __init__(self, model: Path, *, n_ctx: int) -> None:
        import xllamacpp as library

        params = library.CommonParams()
        params.model.path = str(model)
        params.n_ctx = n_ctx
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.warmup = False
        params.verbosity = -1
        params.fit_params = False
        # the defaults keep keys and values in fp16
        params.cache_type_k = params.cache_type_v = library.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = library.Server(params)
        # once the server's loop has answered, ending it cannot hang: the library's destructor waits
        # without end for a loop that begins after it was told to stop
        self.complete([0], 1)

    def ids(self, text: str) -> list[int]:
        """The ids of the text, with what the tokenizer adds; names of special tokens are text."""
        content = {"content": text, "add_special": True, "parse_special": False}
        ids: list[int] = self._post("tokenize", content)["tokens"]
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of the ids."""
        return str(self._post("detokenize", {"tokens": list(ids)})["content"])

    def complete(self, ids: Sequence[int], n: int, *, n_probs: int = 0) -> dict[str, Any]:
        """Greedy continuation of `n` tokens: llama.cpp's answer."""
        content = {
            "prompt": list(ids),
            "n_predict": n,
            "temperature": 0,
            "samplers": ["temperature"],
            "n_probs": n_probs,
            "return_tokens": True,
            "cache_prompt": False,
        }
        return self._post("completion", content)

    def log_probabilities(self, ids: Sequence[int], n_probs: int) -> dict[int, float]:
        """Of the likeliest tokens after the ids; {} if the end of text is the likeliest.

        llama.cpp then answers without probabilities.
        """
        answer = self.complete(ids, 1, n_probs=n_probs)
        return {
            entry["id"]: entry["logprob"]
            for token in answer.get("completion_probabilities", ())
            for entry in token["top_logprobs"]
        }

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = Request(  # its own address on this machine
            f"{self._server.listening_address}/{path}",
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
            result: dict[str, Any] = json.load(answer)
        return result
