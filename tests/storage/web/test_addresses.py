"""Which addresses are asked at all."""

import pytest

from storage.web.addresses import check_behind_proxy, checked, is_public, proxy_of, public_numbers
from storage.web.outcomes import Failed, Refused


@pytest.mark.parametrize(
    "text",
    ["ftp://example.org/a", "file:///etc/passwd", "data:image/png;base64,AA", "//example.org/a",
     "example.org/a.jpg", "javascript:alert(1)", "gopher://example.org", "http://", "", "http:///a",
     "http://me:secret@example.org/", "http://exa mple.org/", "http://example.org/\n", "http://[::1",
     "http://example.org:0/", "http://xn--0.pt/a.jpg", "http://example.org:99999/",
     "http://" + "a" * 9000],
)  # fmt: skip
def test_what_is_no_plain_address_of_the_web_is_refused(text):
    with pytest.raises(Refused):
        checked(text if not text.endswith("\n") else text + "x")


def test_an_address_is_asked_without_its_fragment():
    assert str(checked(" https://example.org/a.jpg?b=1#c ")) == "https://example.org/a.jpg?b=1"
    assert checked("http://exämple.org/ä").host == "exämple.org"


@pytest.mark.parametrize(
    "number",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "0.0.0.0",
     "100.64.1.1", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "ff02::1", "255.255.255.255", "192.0.2.1",
     "198.18.0.1", "fec0::1", "::127.0.0.1", "64:ff9b:1::1", "::ffff:0:7f00:1", "3fff::1"],
)  # fmt: skip
def test_numbers_of_no_public_host_are_known(number):
    assert not is_public(number)
    with pytest.raises(Refused, match="a private address: example.org is"):
        public_numbers("example.org", 80, (), lambda host, port: ["8.8.8.8", number])


@pytest.mark.parametrize("number", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
def test_public_numbers_are_asked(number):
    assert is_public(number)
    assert public_numbers("example.org", 80, (), lambda *_: [number]) == [number]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1"]
)
def test_this_machine_is_refused_however_it_is_written(host):
    with pytest.raises(Refused, match="a private address|Invalid IPv4 address"):
        public_numbers(checked(f"http://{host}/").raw_host.decode(), 80, ())


def test_a_host_that_somebody_vouches_for_is_asked_at_its_port_alone():
    here, numbers = ("127.0.0.1", 8080), ["127.0.0.1"]
    assert public_numbers(*here, {"127.0.0.1:8080"}, lambda *_: numbers) == numbers
    assert public_numbers(*here, {"127.0.0.1"}, lambda *_: numbers) == numbers
    with pytest.raises(Refused):
        public_numbers(*here, {"127.0.0.1:8081"}, lambda *_: numbers)


def test_a_name_that_nobody_knows_fails_and_behind_a_proxy_is_left_to_it(monkeypatch):
    def unknown(host, port):
        raise OSError("no such name")

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Failed, match="unknown host"):
        public_numbers("example.org", 80, (), unknown)
    url = checked("http://example.org/")
    assert proxy_of(url) is None
    monkeypatch.setenv("http_proxy", "proxy.invalid:3128")
    assert proxy_of(url) == "http://proxy.invalid:3128"
    assert check_behind_proxy(url, (), unknown)
    assert not check_behind_proxy(url, (), lambda *_: ["8.8.8.8"])
    with pytest.raises(Refused):
        check_behind_proxy(url, (), lambda *_: ["10.0.0.1"])


@pytest.mark.parametrize("none", ["example.org", "example.org:80", ".org", "*"])
def test_a_host_that_needs_no_proxy_is_asked_directly(monkeypatch, none):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", none)
    assert proxy_of(checked("http://example.org/")) is None
    assert proxy_of(checked("http://example.com/")) is None or none != "*"
