"""The commit of the code is that of its own checkout, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from curl import version


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose only commit holds the package's file, which is asked from there."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.invalid")
    file = tmp_path / "curl" / "version.py"
    file.parent.mkdir()
    file.write_text("VERSION = '1'\n")
    try:
        git(tmp_path, "init", "--quiet")
    except FileNotFoundError:
        pytest.skip("needs git")
    monkeypatch.setattr(version, "__file__", str(file))
    return tmp_path


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_tells_whether_the_package_was_edited(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "first")
    first = git(checkout, "rev-parse", "HEAD")
    found = version.commit()
    assert found and len(found) >= 12 and first.startswith(found)
    (checkout / "notes.txt").write_text("beside the package, and not tracked\n")
    assert version.commit() == found
    (checkout / "curl" / "version.py").write_text("VERSION = '2'\n")
    assert version.commit() == f"{found}+changes"


def test_a_package_inside_of_another_projects_checkout_has_no_commit(checkout: Path) -> None:
    (checkout / "theirs.txt").write_text("text\n")
    git(checkout, "add", "theirs.txt")
    git(checkout, "commit", "--quiet", "-m", "theirs")
    assert version.commit() is None


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert version.commit() is None
