"""The tokens of each step, and that a validation pass covers every token once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.training.batches import Ahead, DocumentWindows, TrainBatches, eval_batches, permuted


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
    n, epochs = 10, 1000
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


def test_steps_of_any_sizes_take_the_sequences_in_order():
    straight, data = batches(), batches()
    size = straight.sequences_per_step
    expected = np.concatenate([straight.step(step) for step in range(40)])
    cuts = [0, 1, 3, size, 5 * size + 1, 33 * size, 40 * size]
    found = [data.rows(first, end) for first, end in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


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


def test_each_epoch_cuts_the_text_at_other_places_and_predicts_as_many_tokens_once():
    data = batches(1005, sequences_per_step=100)  # the last five tokens do not fill a window
    first_places = []
    for epoch in range(20):
        rows = data.step(epoch)
        (place,) = {int(row[0]) % 10 for row in rows if (np.diff(row) == 1).all()}
        first_places.append(place)
        targets = rows[:, 1:].ravel()
        assert len(set(targets)) == 1000
        assert targets.min() >= 1  # token 0 stands for the last one, which is the same
    assert first_places[0] == 0
    assert len(set(first_places)) >= 8
    other = batches(1005, sequences_per_step=100, seed=1)
    assert set(data.step(3)[:, 0]) != set(other.step(3)[:, 0])
    for seed in range(5):  # the first epoch begins at the beginning
        assert set(batches(1005, sequences_per_step=100, seed=seed).step(0)[:, 0] % 10) == {0}


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


# Windows that begin with documents


@example(lengths=[3, 4, 5], seq_len=7)  # two documents fill a window exactly
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), seq_len=st.integers(1, 40))
def test_an_evaluation_of_whole_documents_predicts_every_token_once_and_cuts_only_long_ones(
    lengths, seq_len
):
    tokens, ends = documents(*lengths)
    places = np.arange(len(tokens))
    windows = [
        batch[0]
        for batch in eval_batches(places, seq_len=seq_len, batch_size=4, document_ends=ends)
    ]
    np.testing.assert_array_equal(np.concatenate([w[1:] for w in windows]), places[1:])
    assert all(len(window) <= seq_len + 1 for window in windows)
    begins = {0, *(ends[:, 0] - 1).tolist()}  # the end of text before each document
    for before, window in pairwise(windows):
        assert before[-1] == window[0]
        if int(window[0]) not in begins:  # a cut document filled the window before
            cut = max(begin for begin in begins if begin < window[0])
            assert window[0] - before[0] == seq_len
            assert (window[0] - cut) % seq_len == 0
        else:  # and nothing that would still have fitted was left out
            following = min((b for b in begins if b > window[0]), default=len(tokens) - 1)
            assert following - before[0] > seq_len


def documents(*lengths):
    """A stream of documents: 0 is end of text, every other token is its place; and their ends."""
    tokens = np.arange(1 + sum(lengths))
    ends = 1 + np.cumsum(lengths)
    tokens[np.append(0, ends - 1)] = 0
    return tokens, np.stack([ends, ends], axis=1)


def document_windows(lengths, *, seq_len):
    tokens, ends = documents(*lengths)
    return TrainBatches(
        tokens, seq_len=seq_len, sequences_per_step=1, seed=0, document_ends=ends
    ).windows


def test_a_window_begins_with_the_document_that_the_one_before_cut():
    #        documents begin at 0, 3, 6, 10: end of text, then their own tokens
    windows = document_windows([3, 3, 4, 4], seq_len=8)
    assert windows.starts(np.arange(len(windows))).tolist() == [0, 6]
    windows = document_windows([3, 3, 4, 4], seq_len=7)
    assert windows.starts(np.arange(len(windows))).tolist() == [0, 6, 10]
    windows = document_windows([3, 20, 4], seq_len=8)  # 20 tokens are windows of 8, 8 and 4 + 4
    assert windows.starts(np.arange(len(windows))).tolist() == [0, 3, 11, 19]


def one_after_another(ends, *, seq_len, block=64):
    """The same windows, found as one would by hand."""
    begins = [0, *(ends[:, 0] - 1).tolist()]
    starts = []
    for first in range(0, len(ends), block):
        stop = begins[min(first + block, len(ends))]
        start = begins[first]
        while start < stop:
            starts.append(start)
            reached = [b for b in begins[first : first + block + 1] if start < b <= start + seq_len]
            start = max(reached, default=start + seq_len)
    return starts


@pytest.mark.parametrize("seed", range(30))
def test_document_windows_are_those_found_one_after_another(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, rng.integers(2, 60), size=rng.integers(1, 300))
    ends = documents(*lengths)[1]
    seq_len = int(rng.integers(1, 30))
    windows = DocumentWindows(ends, seq_len=seq_len)
    expected = one_after_another(ends, seq_len=seq_len)
    assert windows.starts(np.arange(len(windows))).tolist() == expected
    mixed = rng.integers(len(expected), size=20)
    assert windows.starts(mixed).tolist() == [expected[i] for i in mixed]


def test_each_document_that_fits_is_whole_in_a_window_and_each_token_in_one():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, size=500)
    windows = document_windows(lengths, seq_len=24)
    starts = windows.starts(np.arange(len(windows)))
    predicted = starts[:, None] + np.arange(1, 25)
    begins = np.cumsum(lengths) - lengths
    assert set(range(1, 1 + sum(lengths))) <= set(predicted.ravel().tolist())
    for begin, length in zip(begins, lengths, strict=True):
        if length <= 24:
            assert ((starts <= begin) & (begin + length <= starts + 24)).any()
        else:
            assert begin in starts


def test_the_last_document_window_runs_on_into_the_first_document():
    tokens, ends = documents(5, 5)
    data = TrainBatches(tokens, seq_len=8, sequences_per_step=2, seed=0, document_ends=ends)
    assert data.n_windows == 2
    assert sorted(data.step(0).tolist()) == [
        [0, 1, 2, 3, 4, 0, 6, 7, 8],
        [0, 6, 7, 8, 9, 0, 1, 2, 3],
    ]
    assert data.visits == 16 / 10


def test_an_epoch_visits_every_document_window_once():
    tokens, ends = documents(*([7, 12, 3] * 50))
    data = TrainBatches(tokens, seq_len=10, sequences_per_step=4, seed=1, document_ends=ends)
    ids = np.concatenate([data.window_ids(step) for step in range(data.n_windows)])
    assert data.n_windows % 4
    for epoch in range(4):
        visited = ids[epoch * data.n_windows : (epoch + 1) * data.n_windows]
        assert sorted(visited) == list(range(data.n_windows))


# Ahead of the step


def test_batches_made_ahead_are_those_that_were_asked_for():
    data = batches()
    ahead = Ahead(data.step)
    for step in (0, 1, 2, 7, 8, 3):
        np.testing.assert_array_equal(ahead(step), data.step(step))


def test_what_goes_wrong_while_a_batch_is_made_ahead_is_raised_by_the_step_that_needs_it():
    def make(step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    ahead = Ahead(make)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        ahead(2)
