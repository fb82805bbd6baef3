"""lm_eval's local-completions against the server: the numbers of our own adapter."""

import json
from pathlib import Path

import pytest

import tinygpt
from tinygpt import export
from tinygpt.evaluation.subject import Subject


@pytest.mark.slow
def test_the_harness_gets_the_same_numbers_from_the_server(serve, tmp_path, monkeypatch):
    for library in ("aiohttp", "tenacity"):
        pytest.importorskip(library)
    import lm_eval.models  # noqa: F401 (registers local-completions)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tinygpt.evaluation.harness import HarnessModel

    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Tom had a red ball. He ran and ran.\n\nMia saw a cat.\n\n" * 40)
    run = tinygpt.run(
        [
            *("dataset=text", "dataset.path=text.txt", "tokenizer=byte", "callback=[]"),
            *("model=nano", "model.n_layer=1", "model.d_model=16", "model.n_head=2"),
            *("trainer.seq_len=64", "trainer.micro_batch_size=4", "trainer.tokens_per_step=256"),
            *("trainer.max_steps=30", "optimizer.lr=1e-2", "cache_dir=cache", "device=cpu"),
        ],
        quiet=True,
    )
    export.main([f"run={run.path}", "to=hf", "out=exported"])
    Path("tasks").mkdir()
    rows = {
        "endings": [
            {"ctx": "Tom had a red", "choices": [" ball", " qxz"], "label": 0},
            {"ctx": "Mia", "choices": [" saw", " ran a"], "label": 0},
        ],
        "pages": [{"text": "Tom had a red ball. He ran."}, {"text": "Mia saw a cat."}],
    }
    kinds = {
        "endings": 'output_type: multiple_choice\ndoc_to_text: "{{ctx}}"\ndoc_to_target: label\n'
        'doc_to_choice: "{{choices}}"\ntarget_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        "pages": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, "
        "higher_is_better: false}]\n",
    }
    for name, items in rows.items():
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
        where = f"test: {Path(f'{name}.jsonl').absolute()}"
        head = (
            f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    {where}\ntest_split: test\n"
        )
        Path(f"tasks/{name}.yaml").write_text(f"task: {name}\n{head}{kinds[name]}")
    tasks = TaskManager(include_path="tasks", include_defaults=False)
    asked = {"tasks": list(rows), "task_manager": tasks, "bootstrap_iters": 0, "log_samples": True}
    subject = Subject(run.path, device="cpu", say=print, warn=print)
    own = simple_evaluate(model=HarnessModel(subject=subject), **asked)
    with serve(Path("outputs")) as running:
        address = f"http://127.0.0.1:{running.port}/v1/completions"
        served = simple_evaluate(
            model="local-completions",
            model_args={
                "model": run.path.name,
                "base_url": address,
                "tokenizer": "exported",
                "tokenizer_backend": "huggingface",
                "max_length": 64,
            },
            **asked,
        )
    for task in rows:
        pairs = zip(own["samples"][task], served["samples"][task], strict=True)
        for ours, theirs in pairs:
            assert _numbers(theirs["resps"]) == pytest.approx(_numbers(ours["resps"]), abs=1e-4)


def _numbers(value):
    """All numbers in nested lists, in order."""
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [float(value == "True") if value in ("True", "False") else float(value)]
