"""The table of faults: each row is shown by a test or waits for something, and the document says which."""

from __future__ import annotations

from faults import rows


def test_every_row_is_shown_or_waits_for_something_and_never_both():
    shown = rows.shown_by()
    assert [n for n, one in rows.ROWS.items() if not one.waits and not shown.get(n)] == [], "nothing shows these"
    assert [n for n, one in rows.ROWS.items() if one.waits and shown.get(n)] == [], "these wait for nothing any more"


def test_every_marked_row_exists():
    assert rows.shown_by().keys() - rows.ROWS.keys() == set()


def test_numbers_are_unique_and_in_order():
    numbers = [one.number for part in rows.PARTS.values() for one in part]
    assert numbers == sorted(set(numbers))


def test_the_document_says_so():
    assert rows.DOCUMENT.read_text() == rows.document(), "run make generate"
