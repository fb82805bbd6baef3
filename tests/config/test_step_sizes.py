"""Updates that grow: their number, their sizes, and what is refused."""

import pytest

from tinygpt.config import TrainerConfig
from tinygpt.config.step_sizes import StepSizes
from tinygpt.errors import UserError


def trainer(**fields: float | str | None) -> TrainerConfig:
    defaults = {"seq_len": 8, "micro_batch_size": 1, "tokens_per_step": 64}
    return TrainerConfig(**{**defaults, **fields})  # type: ignore[arg-type]


def test_stages_double_and_share_the_warm_up_equally() -> None:
    """Of 6,400 tokens a half, 3,200, is two stages of 1,600: 100 steps of 16 and 50 of 32."""
    sizes = trainer(
        first_tokens_per_step=16, tokens_warmup_ratio=0.5, max_tokens=6400
    ).planned_sizes
    assert sizes is not None
    assert sizes.stages == ((100, 16), (50, 32), (50, 64))
    assert (sizes.n_steps, sizes.n_tokens) == (200, 6400)
    assert [sizes.size(step) for step in (0, 99, 100, 149, 150, 500)] == [16, 16, 32, 32, 64, 64]
    assert [sizes.before(step) for step in (0, 99, 101, 150, 200)] == [0, 1584, 1632, 3200, 6400]


def test_without_growth_all_steps_are_equal() -> None:
    plain = trainer(max_tokens=6390).planned_sizes
    assert plain == StepSizes(((100, 64),))
    assert trainer(max_steps=7).planned_sizes == StepSizes(((7, 64),))
    assert trainer(max_tokens=1).planned_steps == 1
    assert trainer(max_flops=1e9).planned_sizes is None


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97, 1000])
def test_a_length_in_steps_is_exact_and_grows_at_the_same_shares_of_its_tokens(steps: int) -> None:
    sizes = trainer(first_tokens_per_step=8, max_steps=steps).planned_sizes
    assert sizes is not None
    assert sizes.n_steps == steps
    assert sizes.before(steps) == sizes.n_tokens
    if steps >= 97:
        first_full = sum(n for n, _ in sizes.stages[:-1])
        assert sizes.before(first_full) / sizes.n_tokens == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"first_tokens_per_step": 24},
            "trainer.first_tokens_per_step=24 must be trainer.tokens_per_step=64 halved some times,"
            " in whole sequences of trainer.seq_len=8; use one of 32, 16, 8",
        ),
        (
            {"first_tokens_per_step": 4, "tokens_per_step": 8},
            "trainer.first_tokens_per_step=4 must be trainer.tokens_per_step=8 halved some times, "
            "in whole sequences of trainer.seq_len=8; use a trainer.tokens_per_step of 16",
        ),
        (
            {"first_tokens_per_step": 16, "max_time": "10s"},
            "trainer.first_tokens_per_step=16 needs the run's length in tokens, which "
            "trainer.max_time does not give; use trainer.max_tokens instead",
        ),
        (
            {"tokens_warmup_ratio": 0.5},
            "trainer.tokens_warmup_ratio=0.5 has no effect without trainer.first_tokens_per_step",
        ),
        ({"first_tokens_per_step": 16, "tokens_warmup_ratio": 2.0}, "tokens_warmup_ratio=2"),
    ],
)
def test_a_growth_that_cannot_be_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(UserError) as error:
        trainer(**fields)
    assert said in str(error.value)


def test_the_first_step_has_sequences_for_all_ranks() -> None:
    growing = trainer(first_tokens_per_step=16)
    assert growing.grad_accum(ranks=2) == 4
    with pytest.raises(UserError) as error:
        growing.grad_accum(ranks=4)
    assert str(error.value) == (
        "trainer.first_tokens_per_step=16 leaves 2 sequences for 4 ranks; use a multiple of "
        "seq_len * ranks = 8 * 4 = 32"
    )
