"""Folders are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from curl.files import require_new, whole_folder


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_once_it_is_filled(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "deep" / "policy"
    if there:  # and empty
        folder.mkdir(parents=True)
    with whole_folder(folder) as aside:
        assert aside.parent == folder.parent
        (aside / "inside").mkdir()
        (aside / "inside" / "file").write_text("text")
        assert not folder.exists() or not any(folder.iterdir())
    assert (folder / "inside" / "file").read_text() == "text"
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_what_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_folder(tmp_path / "policy") as aside:
        (aside / "file").write_text("text")
        raise error
    assert not any(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("text")
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name, said in (("full", "not empty"), ("file", "no folder"), ("dangling", "no folder")):
        with pytest.raises(ValueError, match=said):
            require_new(tmp_path / name)
        with pytest.raises(ValueError, match=said), whole_folder(tmp_path / name):
            pass
    assert sorted(tmp_path.rglob("*")) == before
