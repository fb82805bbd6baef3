"""Which documents are held out for validation."""

import pytest

from tinygpt.components.datasets.reading import holdout
from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, Split

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


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_names_a_fraction_that_leaves_documents_for_both(split: Split) -> None:
    few = ["one", "two", "three"]
    wrong = 0.001 if split == "validation" else 0.999
    with pytest.raises(UserError, match=rf"={wrong} leaves no document for {split}; type 0\.\d+"):
        list(holdout.part(few, split, validation_fraction=wrong))
    for documents in (few, few[:2], ["document 716", "document 1853"]):  # the last are close
        with pytest.raises(UserError) as error:
            list(holdout.part(documents, split, validation_fraction=wrong))
        advised = float(str(error.value).split("type ")[1].split(" ")[0])
        assert held_out(documents, advised)
        assert kept(documents, advised)


@pytest.mark.parametrize("split", SPLITS)
def test_equal_documents_cannot_be_divided_and_no_fraction_is_advised(split: Split) -> None:
    wrong = 0.001 if split == "validation" else 0.999
    with pytest.raises(UserError, match=r"the same text; give it at least one other document"):
        list(holdout.part(["one"] * 9, split, validation_fraction=wrong))


def test_a_first_part_that_is_all_held_out_asks_for_a_larger_fraction() -> None:
    documents = ["document 6", "document 11", "document 1"]
    with pytest.raises(UserError, match=r"all of the first 2 documents.* a larger dataset.fract"):
        list(holdout.part(documents, "train", validation_fraction=0.1, train_among=2))


def test_a_lone_surrogate_has_a_side_too() -> None:
    documents = ["\ud800", *DOCUMENTS]
    assert len(kept(documents, 0.1) + held_out(documents, 0.1)) == 2001
