"""One spelling of every text, and only what hides or misleads is refused, by its code point."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.class_folders import find
from service.core.text import check_owner, check_text, normalised
from service.errors import Invalid

COMPOSED, DECOMPOSED = "Jos\u00e9", "Jose\u0301"
LONGEST = "\u0958"  # of what one keyboard makes, NFC makes two: a letter and its nukta
OF_THEIR_OWN = [chr(point) for point in range(0x110000) if len(unicodedata.normalize("NFC", chr(point))) > 1]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (DECOMPOSED, COMPOSED),
        (COMPOSED, COMPOSED),
        ("\u212b", "\u00c5"),  # the sign for angstrom is the letter
        ("\u1112\u1161\u11ab", "\ud55c"),
        (LONGEST, "\u0915\u093c"),
        ("  K\u00e4se \u72ac\u3000", "K\u00e4se \u72ac"),  # outer blanks of any kind
        (f" {DECOMPOSED}\u00a0", COMPOSED),
        ("ADA", "ADA"),
    ],
)
def test_a_text_has_one_spelling(given, kept):
    assert check_text("label", given) == check_owner(given) == kept


@pytest.mark.parametrize(
    "between",
    ["\u3000", "\u200c", "\u200d", "\u00a0", "\u200b", "\u00ad", "\u200e", "\u200f", "\u2067", "\u2069", "\ue000",
     "\U0001f9d1\u200d\U0001f33e", "\u0301"],
    ids=ascii,
)  # fmt: skip
def test_what_belongs_into_text_is_accepted_inside(between):
    assert check_text("owner", f"a{between}b") == unicodedata.normalize("NFC", f"a{between}b")


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ("\x00", r"U\+0000 \(a control character\)"),
        ("\n", r"U\+000A \(a control character\)"),
        ("\x1b", r"U\+001B \(a control character\)"),
        ("\x85", r"U\+0085 \(a control character\)"),
        ("\u2028", r"U\+2028 \(a line separator\)"),
        ("\u2029", r"U\+2029 \(a paragraph separator\)"),
        ("\ud800", r"U\+D800 \(half of a surrogate pair\)"),
        ("\u0378", r"U\+0378 \(not assigned in Unicode \d+\.0\.0\)"),
        ("\U0010ffff", r"U\+10FFFF \(not assigned"),
        ("\u202d", r"U\+202D \(a bidirectional override\)"),
        ("\u202e", r"U\+202E \(a bidirectional override\)"),
    ],
    ids=ascii,
)
def test_what_is_refused_is_named(point, why):
    for check in (check_owner, lambda text: check_text("owner", text)):
        with pytest.raises(Invalid, match=f"owner must not contain {why}"):
            check(f"a{point}b")


def test_several_are_named_once_each():
    with pytest.raises(Invalid, match=r"U\+0000 \(a control character\), U\+0007 \(a control character\)\.$"):
        check_text("label", "a\0b\0c\7d")


@given(st.text(max_size=200))
def test_what_is_kept_is_sent_again_unchanged(text):
    try:
        kept = check_text("label", text)
    except Invalid:
        return
    assert unicodedata.is_normalized("NFC", kept)
    assert check_text("label", kept) == normalised(kept) == kept
    for form in ("NFC", "NFD"):
        assert check_text("label", unicodedata.normalize(form, text)) == kept


@pytest.mark.parametrize("text", ["x" * 128, "a\u0301" * 128, LONGEST * 128, "\u0301", "\U0001f600" * 128], ids=ascii)
def test_up_to_128_characters_are_a_text(text):
    kept = check_text("label", text)
    assert len(kept) <= 384  # what the registry has room for
    assert check_text("label", kept) == kept


@pytest.mark.parametrize("text", ["", "   ", "\u3000\t", "x" * 129, "x" * 100_000, "a" + "\u0316" * 384], ids=len)
def test_nothing_and_too_much_is_no_text(text):
    with pytest.raises(Invalid, match="label must have 1 to 128 characters"):
        check_text("label", text)


@pytest.mark.parametrize(
    "text", ["a" + "\u0301\u0316" * 1000, "\u0301" * 250_000 + "\u0316" * 250_000, "\u1f82" * 5_000]
)
def test_what_is_far_too_long_is_not_even_normalised(monkeypatch, text):
    """A run of marks would hold Python's lock, and with it every other request, for minutes."""
    monkeypatch.setattr("service.core.text.normalised", None)
    with pytest.raises(Invalid, match="1 to 128 characters"):
        check_text("owner", text)


def test_what_is_taken_apart_is_as_long_as_what_is_not():
    apart = [unicodedata.normalize("NFD", chr(point)) for point in range(0x110000)]
    longest = max(apart, key=len)
    assert len(longest) == 4
    assert check_text("owner", f"{' ' * 5000}{longest * 128}") == unicodedata.normalize("NFC", longest * 128)


def test_no_character_becomes_more_than_the_registry_has_room_for():
    for point in OF_THEIR_OWN:
        composed = unicodedata.normalize("NFC", point)
        assert len(composed) <= 3
        assert sum(not unicodedata.category(one).startswith("M") for one in composed) <= 1


@pytest.mark.parametrize("dots", [".", "..", " .. "])
def test_an_owner_that_no_path_can_name_is_refused_at_intake_and_can_be_looked_up(dots):
    with pytest.raises(Invalid, match=r"owner must not be '\.{1,2}'.*DELETE /owners/"):
        check_owner(dots)
    assert check_text("owner", dots) == dots.strip()
    assert check_owner("...") == "..."


def test_a_folder_of_a_system_that_takes_letters_apart_has_the_label_that_is_held(tmp_path: Path):
    (tmp_path / DECOMPOSED).mkdir()
    (tmp_path / DECOMPOSED / "a.png").touch()
    assert [picture.label for picture in find(tmp_path).pictures] == [COMPOSED]
