"""Helpers that phrase errors."""

import pytest

from tinygpt.errors import UserError, check_choice, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Tom said: \x1b[2Jhello\x07", r"Tom said: \x1b[2Jhello\x07"),
        ("title \x1b]0;owned\x07", r"title \x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),  # a control sequence in one character
        ("safe\rrm -rf", r"safe\rrm -rf"),  # would write over what stands in the line
        ("back\x08\x7f", r"back\x08\x7f"),
        ("txt.\u202eexe", r"txt.\u202eexe"),  # written from right to left
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),  # a byte of the command line that is no UTF-8
        ("\x00", r"\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_text_of_any_language_stays_as_it_is() -> None:
    text = "größe\tcafé ☕\n介绍一下你。 שלום 👩\u200d👩\u200d👧"
    assert visible(text) == text
    assert visible("one\r\ntwo") == "one\ntwo"


def test_a_switch_means_always_or_never_where_those_are_the_choices() -> None:
    for typed, meant in (("False", "never"), ("True", "always")):
        with pytest.raises(
            UserError, match=rf"device.compile={typed.lower()} .*device.compile={meant}\?"
        ):
            check_choice("device.compile", typed, ("auto", "always", "never"))
