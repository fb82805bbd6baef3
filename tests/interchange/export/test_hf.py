"""Exports for transformers, loaded by it."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.interchange.export.models import source, stories
from tinygpt.errors import UserError
from tinygpt.interchange.export.source import Source, logits_of
from tinygpt.interchange.export.write import export

GREEDY = "greedy text equal for 3 of 3 prompts"


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval().float()


def difference(exported: Source, folder: Path) -> float:
    """The largest difference of logits."""
    tokens = exported.windows()
    with torch.no_grad():
        theirs = loaded(folder)(tokens).logits
    return float((theirs - logits_of(exported.reference, tokens)).abs().max())


@pytest.mark.parametrize(
    ("model", "switches", "tokenizer", "dtype", "hf_class"),
    [
        ("nano", (), "bpe", "fp32", "GPT2LMHeadModel"),
        ("nano", ("model.feedforward=gelu_erf",), "byte", "fp16", "GPT2LMHeadModel"),
        ("llama_nano", ("model.tied=false",), "char", "fp32", "LlamaForCausalLM"),
        ("qwen3_nano", (), "byte", "fp32", "Qwen3ForCausalLM"),
        ("arcee_nano", (), "hf", "fp32", "ArceeForCausalLM"),
    ],
)
def test_transformers_computes_the_same(
    model: str, switches: tuple[str, ...], tokenizer: str, dtype: str, hf_class: str, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", model, *switches, tokenizer=tokenizer, dtype=dtype)
    done = export(exported, to="hf", out=tmp_path / "out")
    name, ids, logits, greedy = done.checks
    assert name.endswith(hf_class)
    assert ids == "ids equal for 109 of 109 texts, which decode to themselves"
    assert float(re.findall(r"at most (\S+),", logits)[0]) < 1e-4
    assert greedy == GREEDY
    assert difference(exported, tmp_path / "out") < 1e-4
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {
        {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    }


@pytest.mark.parametrize(
    ("model", "switches", "changes"),
    [
        ("nano", ("model.norm_eps=0.1",), {"layer_norm_epsilon": None}),
        ("llama_nano", ("model.bias=true",), {"attention_bias": None}),
        ("arcee_nano", (), {"hidden_act": "silu"}),
        ("qwen3_nano", ("model.rope_base=50.0",), {"rope_parameters": None, "rope_theta": None}),
        # one key of each architecture is tried by the fast ones
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("nano", (), {"activation_function": "gelu"}),
                (
                    *("llama_nano", ("model.rope_base=50.0",)),
                    {"rope_parameters": None, "rope_theta": None},
                ),
                ("llama_nano", ("model.norm_eps=0.1",), {"rms_norm_eps": None}),
                ("llama_nano", (), {"tie_word_embeddings": None}),
                ("llama_nano", ("model.bias=true",), {"mlp_bias": None}),
            ]
        ),
    ],
)
def test_a_key_that_would_load_without_an_error_is_needed(
    model: str, switches: tuple[str, ...], changes: dict[str, Any], tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", model, *switches)
    export(exported, to="hf", out=tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    content = json.loads(path.read_text())
    assert changes.keys() <= content.keys()
    left = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(json.dumps(left))
    assert difference(exported, tmp_path / "out") > 1e-4


def test_weights_that_are_not_transposed_load_without_an_error_and_differ(tmp_path: Path) -> None:
    exported = source(tmp_path / "run")
    export(exported, to="hf", out=tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    tensors = load_file(path)
    name = "transformer.h.0.attn.c_proj.weight"  # is square
    save_file(tensors | {name: tensors[name].t().contiguous()}, path, metadata={"format": "pt"})
    assert difference(exported, tmp_path / "out") > 1e-2


def test_the_settings_of_the_tokenizer_are_needed(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    exported = source(tmp_path / "run", tokenizer="bpe")
    out = export(exported, to="hf", out=tmp_path / "out").path
    text = "a<|endoftext|> b"
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == exported.tokenizer.encode(text)
    for name, key in (("tokenizer_config", "split_special_tokens"), ("config", "bos_token_id")):
        path = out / f"{name}.json"
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] != exported.tokenizer.encode(text)
    assert AutoConfig.from_pretrained(out).bos_token_id != 0


def test_a_batch_with_left_padding_and_a_saved_copy_give_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    exported = source(tmp_path / "run", "llama_nano", tokenizer="bpe")
    out = export(exported, to="hf", out=tmp_path / "out").path
    model, tokenizer = loaded(out), AutoTokenizer.from_pretrained(out, padding_side="left")
    texts = ["Nora was an honest", "Nora", "The little dog ran to the"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    together = model.generate(**batch, do_sample=False, max_new_tokens=10)
    for text, row in zip(texts, together, strict=True):
        alone = tokenizer([text], return_tensors="pt")
        single = model.generate(**alone, do_sample=False, max_new_tokens=10)[0]
        assert row[-10:].tolist() == single[-10:].tolist()
    model.save_pretrained(tmp_path / "copy")
    before, after = (load_file(f / "model.safetensors") for f in (out, tmp_path / "copy"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_snippet_of_the_model_card_runs_without_tinygpt(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", tokenizer="bpe", license="mit")
    out = export(exported, to="hf", out=tmp_path / "out").path
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "bits per byte of the validation text: 1.2500" in card
    assert "begin the ids with it" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = (
        "import sys, warnings; warnings.simplefilter('error', UserWarning)\n"
        "sys.modules['tinygpt'] = None\n"
        f"{snippet}\nassert ids[0] == 0 and type(model).__name__ == 'GPT2LMHeadModel'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Nora was")


def test_an_export_that_another_tool_computes_otherwise_is_not_kept(tmp_path: Path) -> None:
    """An error in our own tables would be such a case."""
    exported = source(tmp_path / "run")
    wrong = replace(exported.cfg, model=replace(exported.cfg.model, norm_eps=0.1))
    with pytest.raises(UserError, match=r"was not kept: logits of transformers differ by"):
        export(replace(exported, cfg=wrong), to="hf", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", dtype="fp16")
    with torch.no_grad():
        exported.model.token_embedding.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"dtype=fp16 cannot hold token_embedding.weight.*fp32"):
        export(exported, to="hf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("n_prompts", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_greedy_text_of_prompts_is_equal(tmp_path: Path, n_prompts: int) -> None:
    exported = source(tmp_path / "run", "llama_nano", tokenizer="bpe")
    beginnings = tuple(" ".join(text.split()[:3]) for text in stories()[:n_prompts])
    done = export(replace(exported, prompts=beginnings), to="hf", out=tmp_path / "out")
    assert done.checks[-1] == f"greedy text equal for {2 + n_prompts} of {2 + n_prompts} prompts"


@pytest.mark.slow
def test_the_evaluation_harness_scores_the_folder_as_we_do(tmp_path: Path) -> None:
    """lm_eval --model hf, with a task of this test and without a network."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    exported = source(tmp_path / "run", "llama_nano", tokenizer="bpe")
    out = export(exported, to="hf", out=tmp_path / "out").path
    texts = ["Nora was an honest girl.", "The dog ran to the garden."]
    (tmp_path / "pages.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    (tmp_path / "pages.yaml").write_text(f"""task: pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/pages.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
""")
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "pages"]
    command += ["--model_args", f"pretrained={out}", "--include_path", str(tmp_path)]
    command += ["--device", "cpu", "--output_path", str(tmp_path / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").glob("**/results_*.json")
    found = json.loads(file.read_text())["results"]["pages"]["bits_per_byte,none"]
    bits = 0.0
    for text in texts:
        ids = torch.tensor([[exported.tokenizer.eot_id, *exported.tokenizer.encode(text)]])
        scores = logits_of(exported.reference, ids)[0, :-1].log_softmax(-1)
        bits -= float(scores.gather(-1, ids[0, 1:, None]).sum()) / math.log(2)
    assert found == pytest.approx(bits / len("".join(texts)), rel=1e-5)
