"""Whether Python, the packages and the typed commands are one installation, and which files of the
user stand in their way.
"""

import sys
import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from flows.doctor import installation

SCRIPTS = sysconfig.get_path("scripts")


def fake(monkeypatch, name, value):
    monkeypatch.setattr(installation, name, value)


def distribution(folder, version="0.1.0", requires_python=">=3.11", direct_url=None):
    """Metadata of an installed rdm."""
    info = folder / f"rdm-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: rdm\nVersion: {version}\n"
    (info / "METADATA").write_text(f"{text}Requires-Python: {requires_python}\n")
    if direct_url:
        (info / "direct_url.json").write_text(direct_url)
    return PathDistribution(info)


def test_this_python_is_fine(machine, told, monkeypatch):
    fake(monkeypatch, "environment_kind", lambda: "virtual environment")
    ((mark, text),) = told(installation.python(machine()))
    assert mark == "ok" and "virtual environment" in text and sys.prefix in text


def test_a_python_outside_the_bounds_of_the_metadata_will_fail(
    machine, told, monkeypatch, tmp_path
):
    fake(monkeypatch, "installed", lambda: [distribution(tmp_path, requires_python="<3")])
    ((mark, text),) = told(installation.python(machine()))
    assert mark == "x" and "rdm wants <3" in text and "make install PYTHON=" in text


def test_a_python_that_other_programs_share_is_told(machine, told, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    ((mark, text),) = told(installation.python(machine()))
    assert mark == "!" and "other programs share" in text and "python3 -m venv" in text


def test_an_environment_of_conda_is_one(monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name == "conda-meta")
    assert installation.environment_kind() == "conda environment"


def test_another_environment_that_is_activated_is_told(machine, told, tmp_path):
    found = told(installation.python(machine(VIRTUAL_ENV=str(tmp_path))))
    assert found[-1][0] == "!" and f"VIRTUAL_ENV is {tmp_path}" in found[-1][1]
    found = told(installation.python(machine(VIRTUAL_ENV=sys.prefix)))
    assert "VIRTUAL_ENV" not in str(found)


def test_one_installation_is_fine(machine, told):
    found = told(installation.one_installation(machine(PATH=SCRIPTS)))
    assert [mark for mark, _ in found] == ["ok"] and "flows, rdm_core, storage of" in found[0][1]


def test_packages_of_different_places_will_fail(machine, told, monkeypatch):
    folders = {"storage": Path("/theirs")}
    fake(monkeypatch, "folder_of", lambda name: folders.get(name, Path("/ours")))
    ((mark, text),) = told(installation.one_installation(machine(PATH=SCRIPTS)))
    assert mark == "x" and "storage of /theirs" in text and "PYTHONPATH" in text


def test_code_of_another_place_than_its_metadata_is_told(machine, told, monkeypatch, tmp_path):
    url = '{"url": "file:///else%20where", "dir_info": {"editable": true}}'
    fake(monkeypatch, "installed", lambda: [distribution(tmp_path, direct_url=url)])
    ((mark, text),) = told(installation.one_installation(machine(PATH=SCRIPTS)))
    assert mark == "!" and "installed of /else where" in text
    fake(monkeypatch, "installed", lambda: [])
    ((mark, text),) = told(installation.one_installation(machine(PATH=SCRIPTS)))
    assert mark == "!" and "not installed" in text and "pip install --editable" in text


def test_an_installation_that_was_copied_lies_where_its_metadata_does(tmp_path):
    assert installation.folder_declared(distribution(tmp_path)) == tmp_path


def test_commands_of_another_environment_and_missing_ones_are_told(machine, told, tmp_path):
    other = tmp_path / "rdm"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    found = told(installation.typed_commands(machine(PATH=str(tmp_path))))
    assert [mark for mark, _ in found] == ["!", "!"]
    assert f"rdm is {other}, of another environment" in found[0][1]
    assert "not on PATH: prefect" in found[1][1] and f"export PATH={SCRIPTS}:$PATH" in found[1][1]


def test_a_link_to_our_command_is_ours(machine, told, tmp_path):
    for command in installation.COMMANDS:
        (tmp_path / command).symlink_to(Path(SCRIPTS) / command)
    assert told(installation.typed_commands(machine(PATH=str(tmp_path)))) == []


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's working directory with a flows/ of its own."""
    folder = tmp_path / "project"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "__init__.py").touch()
    (folder / "queue.py").touch()
    (folder / "mine.py").touch()
    (folder / "storage").mkdir()  # no package, so nobody imports it
    monkeypatch.chdir(folder)
    return folder


def test_files_of_the_user_that_are_named_like_modules_are_told(machine, told, project):
    ((mark, text),) = told(installation.names_taken(machine()))
    assert mark == "!" and f"{project} holds flows/, queue.py:" in text
    assert "export PYTHONSAFEPATH=1" in text
    ((mark, text),) = told(installation.names_taken(machine(PYTHONSAFEPATH="1")))
    assert mark == "ok"


def test_a_folder_of_pythonpath_is_looked_into_wherever_one_is(machine, told, project, tmp_path):
    (project / "flows" / "__init__.py").unlink()
    (project / "queue.py").unlink()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    stated = f"/nonexistent:{tmp_path}:"
    found = told(installation.names_taken(machine(PYTHONPATH=stated, PYTHONSAFEPATH="1")))
    assert [mark for mark, _ in found] == ["!", "ok"]
    assert f"PYTHONPATH names {tmp_path}, which holds torch/" in found[0][1]


def test_many_names_are_counted(machine, told, project):
    for name in ("random", "types", "copy", "numpy", "json"):
        (project / f"{name}.py").touch()
    ((_, text),) = told(installation.names_taken(machine()))
    assert "and 2 more" in text


def test_a_working_directory_that_is_gone_will_fail(machine, told, monkeypatch):
    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    ((mark, text),) = told(installation.names_taken(machine()))
    assert mark == "x" and "was deleted" in text


def test_npm_is_one_line(machine, told, tmp_path):
    ((mark, text),) = told(installation.npm(machine(PATH=str(tmp_path))))
    assert mark == "!" and "Node.js" in text
    (tmp_path / "npm").write_text("")
    (tmp_path / "npm").chmod(0o755)
    ((mark, text),) = told(installation.npm(machine(PATH=str(tmp_path))))
    assert mark == "ok" and str(tmp_path / "npm") in text
