"""Secrets and personal data are found by pattern and check digit, and what only looks alike is not."""

import time

import pytest

from luthier_trainer.checks.sensitive import Placeholders, find_sensitive

# Put together here, so that no scanner of sources takes a made-up key for a real one.
PLANTED = {
    "Secret": [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "glpat-" + "x" * 20,
        "sk-" + "proj-" + "A1b2" * 8,
        "sk_" + "live_" + "4f" * 12,
        "xoxb-" + "1234567890-abcdef",
        "AIza" + "S" * 35,
        "hf_" + "Q" * 34,
        "eyJ" + "h" * 20 + ".eyJ" + "z" * 20 + "." + "s" * 20,
        "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    ],
    "Card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "Email": ["ada@example.org", "first.last+tag@mail.example.co.uk"],
    "Phone": ["+49 30 1234567", "+1 (555) 010-0199", "555-010-0199", "030 1234567"],
    "Iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in PLANTED for value in PLANTED[kind]])
def test_what_was_planted_is_found_whole(kind, value):
    text = f"Please note {value}, thanks."
    (hit,) = find_sensitive(text)
    assert (hit.kind, text[hit.start : hit.end]) == (kind, value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("order 4111 1111 1111 1112", id="Luhn's digit is wrong"),
        pytest.param("order 9111111111111111", id="no issuer begins so"),
        pytest.param("DE88 3704 0044 0532 0130 00", id="check digits are wrong"),
        pytest.param("XX89370400440532013000", id="no such country"),
        pytest.param("version 10.0.26100.1 of 2026-12-01", id="version and date"),
        pytest.param("ticket 12345678", id="a bare number"),
        pytest.param("user@localhost", id="no domain"),
        pytest.param("AKIA is a prefix, sk-short too", id="prefixes"),
        pytest.param("+1 2 3 4 5", id="too few digits"),
    ],
)
def test_what_only_looks_alike_is_left(text):
    assert find_sensitive(text) == []


def test_words_in_capitals_after_an_iban_do_not_belong_to_it():
    text = "DE89 3704 0044 0532 0130 00 PLEASE PAY"
    (hit,) = find_sensitive(text)
    assert text[hit.start : hit.end] == "DE89 3704 0044 0532 0130 00"


def test_one_value_is_one_placeholder_within_a_row():
    names = Placeholders()
    question = "I am ada@example.org, my friend is bob@example.org"
    answer = "Hello ada@example.org"
    assert names.redact(question, find_sensitive(question)) == "I am [EMAIL_1], my friend is [EMAIL_2]"
    assert names.redact(answer, find_sensitive(answer)) == "Hello [EMAIL_1]"


@pytest.mark.parametrize("piece", ["a", "0 ", "1", "A1", "a@", "a.", "eyJ", "+1", "-----BEGIN A "])
def test_a_hostile_text_of_400_kb_costs_a_second(piece):
    started = time.process_time()
    find_sensitive(piece * (400_000 // len(piece)))
    assert time.process_time() - started < 8


def test_a_list_of_20000_addresses_is_redacted_in_seconds():
    text = " ".join(f"n{n}@example.org" for n in range(20_000))
    started = time.process_time()
    redacted = Placeholders().redact(text, find_sensitive(text))
    assert time.process_time() - started < 8
    assert redacted.startswith("[EMAIL_1] [EMAIL_2] ")
    assert redacted.endswith(" [EMAIL_20000]")
