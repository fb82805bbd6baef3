"""The model card of an export, README.md."""

from dataclasses import asdict

import yaml

import tinygpt
from tinygpt.interchange.architectures import Architecture
from tinygpt.interchange.export.source import Source
from tinygpt.interchange.export.vocabularies import end_of_text

_CARD = """\
---
license: {license}
library_name: transformers
pipeline_tag: text-generation
---

# {title}

A language model of {parameters:,} parameters ({hf_class}), trained with tinygpt {version}.

- data: `dataset={dataset}`, tokenizer: `tokenizer={tokenizer}`, {vocab_size:,} tokens
- context window: {seq_len:,} tokens; a longer sequence is an error or worse than what was trained
- bits per byte of the validation text: {bpb}
- from the checkpoint {checkpoint}, {dtype}

Each text of the training began after the end-of-text token, `{eot}` (id {eot_id}). The tokenizer
does not add it, so begin the ids with it yourself:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = [tokenizer.eos_token_id, *tokenizer.encode({prompt!r}, add_special_tokens=False)]
out = model.generate(torch.tensor([ids]), max_new_tokens={new}, do_sample=True, temperature=0.8)
print(tokenizer.decode(out[0], skip_special_tokens=True))
```

## Config

```yaml
{config}```
"""


def model_card(source: Source, architecture: Architecture) -> str:
    """The text of README.md."""
    cfg, tokenizer = source.cfg, source.tokenizer
    shown = {name: asdict(getattr(cfg, name)) for name in ("model", "optimizer", "schedule")}
    prompt = source.prompts[0] if source.prompts else "Once upon a time"
    ids = len(tokenizer.encode(prompt)) + 1
    return _CARD.format(
        license=source.license,
        title=source.run.name,
        parameters=sum(p.numel() for p in source.model.parameters()),
        hf_class=architecture.hf_class,
        version=tinygpt.__version__,
        dataset=cfg.dataset.name,
        tokenizer=cfg.tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        seq_len=source.seq_len,
        bpb="unknown" if source.bpb is None else f"{source.bpb:.4f}",
        checkpoint=source.checkpoint,
        dtype=source.dtype,
        eot=end_of_text(tokenizer),
        eot_id=tokenizer.eot_id,
        prompt=prompt,
        new=max(1, min(50, source.seq_len - ids)),
        config=yaml.safe_dump(shown, sort_keys=False),
    )
