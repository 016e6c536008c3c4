"""Receipts: kept, listed in order, and readable by programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.bundle.receipt import Change, Receipt, Receipts
from appliance.errors import NotHeld
from appliance.index.memory import MemoryDocuments
from appliance.oci.timestamps import timestamp
from tests.doubles.deferreds import result

BUNDLE = "sha256:" + "ab" * 32


def receipt(finished: float = 1_800_000_000.0, **more: Any) -> Receipt:
    return Receipt(bundle=BUNDLE, format="pullcache bundle", files=["a.tar"], finished=timestamp(finished), **more)


def kept(receipts: Receipts, made: Receipt) -> Receipt:
    named: Receipt = result(receipts.named(made))
    result(receipts.keep(named))
    return named


def test_a_receipt_is_found_under_its_id() -> None:
    """And is what it was."""
    receipts = Receipts(MemoryDocuments())
    change = Change(
        name="docker.io/library/nginx:1",
        upstream="docker.io",
        repository="library/nginx",
        tag="1",
        digest=BUNDLE,
        outcome="new",
    )
    made = kept(receipts, receipt(refs=[change], notes=["a note"]))
    assert made.id == "20270115T080000Z-abababababab"
    assert result(receipts.get(made.id)) == made


def test_receipts_are_listed_from_the_oldest() -> None:
    """Two of one bundle in one second are two."""
    receipts = Receipts(MemoryDocuments())
    made = [kept(receipts, receipt(1_800_000_000.0 + second)) for second in (0, 0, 0, 5, 100_000)]
    assert result(receipts.all()) == made
    assert len({each.id for each in made}) == 5


def test_keeping_a_receipt_again_changes_nothing() -> None:
    """As happens when a publication is finished after a restart."""
    receipts = Receipts(MemoryDocuments())
    made = kept(receipts, receipt())
    result(receipts.keep(made))
    assert result(receipts.all()) == [made]


@pytest.mark.parametrize("receipt_id", ["", "..", "no-such", "a/b"])
def test_an_unknown_receipt_is_not_there(receipt_id: str) -> None:
    """Whatever was asked for."""
    with pytest.raises(NotHeld, match="there is no receipt"):
        result(Receipts(MemoryDocuments()).get(receipt_id))


def test_a_damaged_receipt_does_not_hide_the_others(logged_errors: list[dict[str, Any]]) -> None:
    """It is logged, set aside and left out."""
    documents = MemoryDocuments()
    receipts = Receipts(documents)
    made = kept(receipts, receipt())
    for number, data in enumerate((b"{", b'{"id": "\xff"}', b"[" * 100_000)):
        documents.write(("receipts", f"{number}-damaged", "receipt.json"), data, 0)
    assert result(receipts.all()) == [made]
    assert [document for document, _ in documents.damaged] == [f"receipts/{n}-damaged/receipt.json" for n in range(3)]
    logged_errors.clear()


def test_a_receipt_is_json_that_says_what_it_is() -> None:
    """For the person who carries it back to the sender."""
    document = json.loads(receipt(new_bytes=5).encode())
    assert document["mediaType"] == "application/vnd.pullcache.receipt.v1+json"
    assert (document["bundle"], document["newBytes"], document["dryRun"]) == (BUNDLE, 5, False)
