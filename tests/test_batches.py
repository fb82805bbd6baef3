"""Which tokens a step sees, and that a validation pass is complete."""

import numpy as np
import pytest

from tinygpt.batches import TrainBatches, eval_batches, permuted
from tinygpt.errors import UserError


def batches(n_tokens=1001, *, seq_len=10, sequences_per_step=7, seed=0):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    return TrainBatches(tokens, seq_len=seq_len, sequences_per_step=sequences_per_step, seed=seed)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 1000, 4097])
def test_a_permutation_visits_every_place_once(n):
    assert sorted(permuted(np.arange(n), n=n, key=(1, 2))) == list(range(n))


def test_a_place_is_sent_to_the_same_window_whatever_else_is_asked():
    whole = permuted(np.arange(1000), n=1000, key=(0, 3))
    for place in (0, 1, 500, 999):
        assert permuted(np.array([place]), n=1000, key=(0, 3))[0] == whole[place]


def test_each_window_is_as_likely_at_each_place():
    n, epochs = 10, 4000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), permuted(np.arange(n), n=n, key=(0, epoch))] += 1
    expected = epochs / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (n - 1) ** 2
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order():
    data = batches()
    assert data.n_windows == 100
    ids = np.concatenate([data.window_ids(step) for step in range(43)])  # 301 sequences
    first, second, third = ids[:100], ids[100:200], ids[200:300]
    for epoch in (first, second, third):
        assert sorted(epoch) == list(range(100))
    assert (first != second).any()
    assert (second != third).any()


def test_after_three_and_a_half_epochs_no_window_is_a_visit_ahead():
    data = batches(sequences_per_step=10)
    counts = np.bincount(np.concatenate([data.window_ids(step) for step in range(35)]))
    assert set(counts) == {3, 4}
    assert (counts == 4).sum() == 50


def test_a_step_does_not_depend_on_the_steps_before_it():
    straight = batches()
    for step in range(20):
        straight.step(step)
    np.testing.assert_array_equal(straight.step(20), batches().step(20))


def test_the_same_sequences_come_however_they_are_cut_into_steps():
    small = batches(sequences_per_step=4)
    large = batches(sequences_per_step=8)
    together = np.concatenate([small.step(6), small.step(7)])
    np.testing.assert_array_equal(together, large.step(3))


def test_another_seed_gives_another_order():
    assert (batches(seed=0).window_ids(0) != batches(seed=1).window_ids(0)).any()


def test_windows_are_the_streams_own_tokens_and_overlap_by_one():
    data = batches(sequences_per_step=100)
    rows = data.step(0)
    assert rows.shape == (100, 11)
    assert rows.dtype == np.int64
    for window, row in zip(data.window_ids(0), rows, strict=True):
        np.testing.assert_array_equal(row, np.arange(window * 10, window * 10 + 11))


def test_text_shorter_than_a_sequence_is_refused_with_the_length_that_fits():
    with pytest.raises(UserError, match=r"seq_len=10 is longer.*trainer\.seq_len=8"):
        batches(10)
    assert batches(9 + 1, seq_len=8).n_windows == 1


@pytest.mark.parametrize("n_tokens", [2, 9, 10, 11, 12, 100, 101, 105])
def test_evaluation_predicts_every_token_but_the_first_once(n_tokens):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    targets = [batch[:, 1:].ravel() for batch in eval_batches(tokens, seq_len=10, batch_size=4)]
    np.testing.assert_array_equal(np.concatenate(targets), np.arange(1, n_tokens))


def test_evaluation_inputs_are_the_tokens_before_the_targets():
    tokens = np.arange(57, dtype=np.uint16)
    for batch in eval_batches(tokens, seq_len=10, batch_size=4):
        np.testing.assert_array_equal(batch[:, :-1] + 1, batch[:, 1:])
