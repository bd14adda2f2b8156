"""A line of a doctor's has a cure where one is needed, and tells no secret."""

import pytest

from flows.doctor.findings import FINE, NOTE, Finding, fine, note, passwords_in, without_words


def test_a_finding_has_a_cure_where_something_is_wrong_and_none_where_nothing_is():
    with pytest.raises(AssertionError, match="cure"):
        Finding(NOTE, "disk", "little room")
    with pytest.raises(AssertionError, match="cure"):
        Finding(FINE, "disk", "much room", "free some")


def test_a_finding_is_one_line_that_steers_no_terminal():
    one = note("user", "a home\nof two lines \x1b[31m", "go\nhome")
    assert one.found == "a home\\nof two lines \\x1b[31m" and one.cure == "go\\nhome"


@pytest.mark.parametrize(
    "address", ["http://me:secret@host:1/api", "socks5://me:sec/ret@x@host", "https://:secret@host"]
)
def test_users_and_passwords_of_addresses_are_not_told(address):
    one = note("server", f"{address} is away", f"See {address}")
    assert "sec" not in one.found + one.cure and "...@host" in one.found


def test_pieces_of_a_password_that_a_library_tells_are_not_told():
    environment = {
        "HTTPS_PROXY": "http://me:hush/and-more@host:3128",
        "PREFECT_API_URL": "me:plain@host",
        "MAIL": "somebody@example.org",
        "GIT": "ssh://git@example.org:rdm",
    }
    pieces = passwords_in(environment)
    assert pieces == {"hush", "and", "more", "plain"}
    one = without_words(fine("hub", "Invalid port: 'hush' of somebody's crush"), pieces)
    assert one.found == "Invalid port: '...' of somebody's crush"
    assert without_words(one, set()) is one
