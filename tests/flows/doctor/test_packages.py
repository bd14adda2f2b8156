"""Installed packages against the bounds of installed metadata: each is told with its reason, and
nothing is listed twice.
"""

from importlib.metadata import PackageNotFoundError

import pytest

from flows.doctor import packages

RDM = (
    "sqlalchemy<2.1,>=2",
    "fastapi<0.151",
    "numpy<2,>=1.26",
    "faiss-cpu<1.14",
    "torch>=2.9",
    "torchvision",
    "httpx[socks]>=0.27",
    'colorama; sys_platform == "win32"',
    'dask; extra == "dask"',
    'pytest; extra == "dev"',
    "not a requirement !!",
)
ASKS = {
    "rdm": RDM,
    "torchvision": ("torch==2.12.1", "scipy; extra == 'scipy'"),
    "httpx": ("anyio", "socksio==1.*; extra == 'socks'"),
    "anyio": ("httpx",),
}
THERE = {
    "sqlalchemy": "2.0.58",
    "fastapi": "0.150.0",
    "numpy": "1.26.4",
    "faiss-cpu": "1.13.2",
    "torch": "2.12.1+cu130",
    "torchvision": "0.27.1",
    "httpx": "0.28.1",
    "anyio": "4.0",
    "socksio": "1.0.0",
}


@pytest.fixture
def installed(monkeypatch):
    """installed(name=version) -> the findings; None takes a package out."""
    monkeypatch.setattr(packages, "extras", lambda: (["dask"], ["s3"]))

    def with_versions(machine, told, changes):
        there = {name: found for name, found in (THERE | changes).items() if found}

        def version(name):
            if name not in there:
                raise PackageNotFoundError(name)
            return there[name]

        monkeypatch.setattr(packages, "version", version)
        monkeypatch.setattr(packages, "requires", lambda name: ASKS.get(name))
        return told(packages.packages(machine))

    return with_versions


def test_what_is_as_asked_is_one_line_with_the_versions_that_matter(installed, machine, told):
    found = installed(machine(), told, {})
    assert [mark for mark, _ in found] == ["ok", "ok"]
    assert "9 as they ask of each other: sqlalchemy 2.0.58, fastapi 0.150.0" in found[0][1]
    assert "here: dask; not installed: s3" in found[1][1]


@pytest.mark.parametrize(
    ("name", "version", "bound", "reason"),
    [
        ("sqlalchemy", "2.1.0", "sqlalchemy<2.1,>=2", "no schedule ever fires"),
        ("fastapi", "0.151.0", "fastapi<0.151", "only the first is deployed"),
        ("numpy", "2.0.1", "numpy<2,>=1.26", "autofaiss"),
        ("faiss-cpu", "1.14.0", "faiss-cpu<1.14", "quantised"),
        ("faiss-cpu", None, "faiss-cpu<1.14", "is not installed"),
    ],
)
def test_a_version_that_is_known_to_fail_is_told_with_its_reason(
    name, version, bound, reason, installed, machine, told
):
    (mark, text), _ = installed(machine(), told, {name: version})
    assert mark == "x" and f"rdm asks for {bound}" in text and reason in text
    assert f"-m pip install '{bound}'" in text


def test_a_torch_without_muon_fails_and_does_not_fit_its_torchvision(installed, machine, told):
    of_rdm, of_torchvision, _ = installed(machine(), told, {"torch": "2.8.0"})
    assert of_rdm[0] == "x" and "Muon" in of_rdm[1]
    assert of_torchvision[0] == "x" and "torchvision asks for torch==2.12.1" in of_torchvision[1]
    assert "importing open_clip fails" in of_torchvision[1] and "Muon" not in of_torchvision[1]
    assert "--force-reinstall torch torchvision" in of_torchvision[1]


def test_wheels_of_different_builds_do_not_fit(installed, machine, told):
    found = installed(machine(), told, {"torchvision": "0.27.1+cpu"})
    assert found[0][0] == "x" and "different builds" in found[0][1]


def test_httpx_without_socks_fails_where_a_socks_proxy_is_named(installed, machine, told):
    (mark, text), _ = installed(machine(), told, {"socksio": None})
    assert mark == "!" and "httpx asks for socksio" in text
    behind = machine(all_proxy="socks5h://127.0.0.1:9")
    (mark, text), _ = installed(behind, told, {"socksio": None})
    assert mark == "x" and "at a socks proxy" in text


def test_what_other_packages_ask_for_is_told(installed, machine, told):
    (mark, text), _ = installed(machine(), told, {"anyio": None})
    assert mark == "!" and "httpx asks for anyio" in text


def test_without_metadata_nothing_is_compared(monkeypatch, machine, told):
    def none(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "requires", none)
    ((mark, text),) = told(packages.packages(machine()))
    assert mark == "!" and "not compared" in text
    assert packages.needed_directly() == []


def test_every_reason_is_about_a_package_that_the_metadata_names():
    named = {name.lower() for name in packages.needed_directly()}
    assert set(packages.REASONS) - set(packages.OF_OTHERS) <= named
    _, met = packages.compared()
    assert set(packages.REASONS) <= set(met), "compared by their canonical names"


def test_the_extras_are_those_of_the_metadata():
    here, absent = packages.extras()
    assert {*here, *absent} == {"dask", "s3", "tensorboard", "edit", "transformers"}
