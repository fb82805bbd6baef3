"""The coordinate check sees which activations grow with the width."""

import pytest

from tinygpt import coordinates
from tinygpt.config import compose
from tinygpt.planning.coordinates import check, widened

SMALL = ["dataset=storyworld", "model=nano", "model.n_layer=2", "trainer.seq_len=16"]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("adamw", "optimizer.lr=1e-2"), ("muon", "optimizer.adamw_lr=1e-2")]
)
def test_activations_grow_with_the_width_but_not_with_mup(optimizer: str, lr: str) -> None:
    typed = [*SMALL, f"optimizer={optimizer}", lr]
    standard = compose.compose("train", typed)
    mup = compose.compose("train", [*typed, "optimizer.scaling=mup"])
    found = check(standard, widths=[32, 64, 128], steps=3, seeds=2)
    assert {"logits", "blocks.attention.qkv", "blocks.mlp.up"} <= set(found.growing())
    assert check(mup, widths=[32, 64, 128], steps=3, seeds=2).growing() == []


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    out = tmp_path / "sizes.png"
    typed = [*SMALL, "widths=[16,32]", "steps=1", "seeds=1", f"out={out}", "model=mingru_nano"]
    with pytest.raises(SystemExit) as exit_info:
        coordinates.main([text for text in typed if text not in ("model=nano", "model.n_layer=2")])
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    assert "mean absolute activation after 1 step\n" in printed
    assert "blocks.mlp.down" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("widths=[64]", "type widths=[64,128,256]"),
        ("widths=[8,64]", "type multiples of 64"),
        ("out=a.jpg", "type out=a.png"),
        ("steps=0", "steps=0 must be"),
        ("optimizer.scaling=up", "optimizer.scaling=up"),
    ],
)
def test_what_cannot_be_compared_is_refused(typed, said, capsys):
    with pytest.raises(SystemExit) as exit_info:
        coordinates.main([*SMALL, typed])
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err


def test_a_wider_model_has_more_heads_of_the_same_size():
    model = compose.compose("train", [*SMALL, "model.n_kv_head=2", "model.d_ff=96"]).model
    wide = widened(model, 128)
    assert (wide.n_head, wide.n_kv_head, wide.d_ff) == (8, 4, 192)
