"""Which documents are held out for validation."""

import pytest

from tinygpt.components.datasets.reading import holdout
from tinygpt.errors import UserError

DOCUMENTS = [f"document {i}" for i in range(2000)]


def held_out(documents: list[str], fraction: float) -> list[str]:
    return list(holdout.part(documents, "validation", validation_fraction=fraction))


def kept(documents: list[str], fraction: float) -> list[str]:
    return list(holdout.part(documents, "train", validation_fraction=fraction))


def test_every_document_is_in_exactly_one_split_in_the_order_of_the_source() -> None:
    train, validation = kept(DOCUMENTS, 0.1), held_out(DOCUMENTS, 0.1)
    assert sorted(train + validation) == sorted(DOCUMENTS)
    assert train == [text for text in DOCUMENTS if text not in validation]
    assert validation == [text for text in DOCUMENTS if text in validation]


def test_the_part_held_out_is_about_the_fraction() -> None:
    # five standard deviations of a binomial of 2000 draws
    assert len(held_out(DOCUMENTS, 0.1)) == pytest.approx(200, abs=5 * 13.4)
    assert len(held_out(DOCUMENTS, 0.5)) == pytest.approx(1000, abs=5 * 22.4)


def test_a_text_stays_on_its_side_whatever_else_is_there() -> None:
    validation = set(held_out(DOCUMENTS, 0.1))
    others = ["another", *DOCUMENTS[1000:], *DOCUMENTS[1500:]]
    assert set(held_out(others, 0.1)) & set(DOCUMENTS) == validation & set(others)


def test_the_side_of_a_text_does_not_change_between_versions() -> None:
    assert held_out(DOCUMENTS[:20], 0.1) == ["document 6", "document 11", "document 18"]


def test_a_larger_fraction_holds_out_the_same_documents_and_more() -> None:
    assert set(held_out(DOCUMENTS, 0.1)) < set(held_out(DOCUMENTS, 0.2))


def test_an_empty_validation_split_names_the_fraction_that_is_enough() -> None:
    few = ["one", "two", "three"]
    with pytest.raises(UserError, match=r"dataset.validation_fraction=0.001 .* type 0\.\d+") as e:
        held_out(few, 0.001)
    enough = float(str(e.value).split("type ")[1].split(" ")[0])
    assert len(held_out(few, enough)) == 1


def test_an_empty_train_split_asks_for_a_smaller_fraction() -> None:
    with pytest.raises(UserError, match="no document for train; type a smaller one"):
        kept(["one", "two"], 0.999)


def test_a_lone_surrogate_has_a_side_too() -> None:
    documents = ["\ud800", *DOCUMENTS]
    assert len(kept(documents, 0.1) + held_out(documents, 0.1)) == 2001
