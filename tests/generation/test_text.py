"""Text comes in whole characters, and ends before a stop string wherever tokens begin and end."""

from hypothesis import given
from hypothesis import strategies as st

from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.generation.text import TextStream

Pieces = list[bytes]


def streamed(pieces: Pieces, stop: tuple[str, ...] = ()) -> tuple[list[str], str, bool]:
    """The texts of the tokens that were added, the rest, and whether a stop string came."""
    stream = TextStream(lambda ids: b"".join(pieces[i] for i in ids), stop)
    texts: list[str] = []
    for i in range(len(pieces)):
        texts += stream.add(i)
        if stream.stopped:
            break
    more, rest = stream.finish()
    return texts + more, rest, stream.stopped


def test_a_token_has_the_characters_that_it_completes() -> None:
    assert streamed([b"a\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80b"]) == (
        ["a", "é", "", "😀b"],
        "",
        False,
    )
    assert streamed([b"a", b"\xe2\x82"]) == (["a", ""], "\ufffd", False)


def test_what_may_be_a_stop_string_waits_until_it_is_known() -> None:
    stream = TextStream(
        lambda ids: b"".join([b"ab", b"c", b"ax", b"ab", b"cd"][i] for i in ids), ["abcd"]
    )
    assert [stream.add(i) for i in range(5)] == [[], [], ["ab", "c", "ax"], [], ["", ""]]
    assert stream.stopped
    assert stream.finish() == ([], "")


def test_the_stop_string_that_is_complete_first_counts() -> None:
    assert streamed([b"xabcdy"], ("abcd", "bc")) == (["xa"], "", True)
    assert streamed([b"xab", b"cdy"], ("abcd", "bc")) == (["xa", ""], "", True)
    assert streamed([b"xabc"], ("bc", "abc")) == (["x"], "", True)  # both: the longer one
    assert streamed([b"aaab"], ("aab",)) == (["a"], "", True)


def test_tokens_that_make_a_byte_together_are_one_character() -> None:
    tokenizer = CharConfig().train(iter(["ab"]))
    ids = tokenizer.encode("aßb")  # ß is spelled by four tokens
    stream = TextStream(tokenizer.decode_bytes)
    assert [stream.add(i) for i in ids] == [["a"], [""], [""], [""], ["ß"], ["b"]]


PIECES = st.lists(st.binary(max_size=4) | st.sampled_from([b"a", b"ab", b"\xc3", "é".encode()]))
STOPS = st.lists(st.text("abé", min_size=1, max_size=4), max_size=3).map(tuple)


@given(PIECES, STOPS)
def test_the_text_is_that_of_all_bytes_up_to_the_first_stop_string(
    pieces: Pieces, stop: tuple[str, ...]
) -> None:
    data, end = b"".join(pieces), None
    for complete in range(len(data) + 1):
        starts = [complete - len(s.encode()) for s in stop if data[:complete].endswith(s.encode())]
        if starts:
            end = min(starts)
            break
    texts, rest, stopped = streamed(pieces, stop)
    assert "".join(texts) + rest == data[:end].decode("utf-8", "replace")
    assert stopped is (end is not None)


@given(PIECES, STOPS)
def test_each_token_has_one_text_and_nothing_is_held_for_long(
    pieces: Pieces, stop: tuple[str, ...]
) -> None:
    stream = TextStream(lambda ids: b"".join(pieces[i] for i in ids), stop)
    longest, n_texts, n_bytes = max((len(s.encode()) for s in stop), default=1), 0, 0
    for i in range(len(pieces)):
        n_texts += len(stream.add(i))
        n_bytes = sum(map(len, pieces[n_texts : i + 1]))
        if stream.stopped:
            assert n_texts == i + 1
            break
        held = len(pieces[n_texts]) if n_texts <= i else 0
        assert n_bytes < longest + held  # less than a stop string, but for the token it begins in
