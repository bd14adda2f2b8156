"""Text is right or refused; no encoding is guessed."""

import pytest

from storage.text import NotText, encoding_of, is_whole, text_of

TEXT = "caf\u00e9 日本 \U0001f415\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_in_every_encoding_that_says_its_name(encoding):
    assert text_of(TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize(("mark", "encoding"), [("fffe", "utf-16-le"), ("feff", "utf-16-be")])
def test_both_orders_of_bytes_are_read(mark, encoding):
    assert text_of(bytes.fromhex(mark) + TEXT.encode(encoding)) == TEXT
    assert encoding_of(bytes.fromhex(mark) + b"a\0") == "utf-16"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("caf\u00e9".encode("latin-1"), "byte 3 is no UTF-8"),
        (b"\xed\xa0\xbd", "byte 0 is no UTF-8"),
        (b"\xff\xfea", "is no UTF-16"),
        (b"\xff\xfe\0\0abc", "is no UTF-32"),
        ("a cat".encode("utf-16-le"), "NUL characters"),
        ("a cat".encode("utf-16-be"), "NUL characters"),
        ("a\0cat".encode("utf-16"), "NUL characters"),
    ],
)
def test_other_bytes_are_no_text(data, why):
    with pytest.raises(NotText, match=why):
        text_of(data)


def test_bytes_of_names_can_be_kept_as_file_names_keep_them():
    kept = text_of(b"\xef\xbb\xbfcaf\xe9", keep_bytes=True)
    assert kept == "caf\udce9" and not is_whole(kept)
    with pytest.raises(NotText):
        text_of(b"\xff\xfea", keep_bytes=True)


def test_a_whole_text_has_no_half_characters():
    # U+FFFD, a private character and the last one before the surrogates are characters.
    assert is_whole("") and is_whole("a") and is_whole(TEXT) and is_whole("\ufffd\ue000\ud7ff")
    assert not any(map(is_whole, ("\ud83d", "a\udc15", "\udfff", "\ud800")))
