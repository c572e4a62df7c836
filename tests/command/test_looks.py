"""Names of looks on a command line: those of configs/shift, all of them, with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curl.command import train
from curl.command.looks import chosen, known
from support.looks import configured
from support.paths import CONFIGS
from support.typed import Typed, assert_refused


def test_all_are_the_files_but_none() -> None:
    files = {path.stem for path in (CONFIGS / "shift").glob("*.yaml")}
    asked = chosen(["all"], "--shift")
    assert set(asked.settings) == files - {"none"} and asked.named == frozenset()
    assert set(known()) == files
    for name, settings in asked.settings.items():
        assert settings == configured(name)


def test_names_keep_their_order_and_stand_out_of_all() -> None:
    asked = chosen(["noise", "none", "blur", "noise"], "--shift")
    assert list(asked.settings) == ["noise", "none", "blur"]
    assert asked.settings["none"] == {}
    asked = chosen(["all", "noise"], "--shift")
    assert asked.named == {"noise"} and len(asked.settings) == len(known()) - 1


def test_settings_may_follow_a_name() -> None:
    name = "occlusion:min_area=0.1:max_area=0.3"
    (settings,) = chosen([name], "--shift").settings[name].values()
    assert settings == configured("occlusion")["occlusion"] | {"min_area": 0.1, "max_area": 0.3}
    assert chosen(["noise"], "--shift").settings["noise"] == configured("noise")


@pytest.mark.usefixtures("bad_input")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nois", "--shift must be one of .*, all; got 'nois' .did you mean 'noise'"),
        ("", "--shift must be one of "),
        ("all:severity=3", "--shift must be one of .*; got 'all'"),
        ("noise:severity", "cannot read 'noise:severity'; write NAME or NAME:SETTING=VALUE"),
        ("noise:severity=[", "cannot read 'noise:severity=\\['"),
        ("none:severity=3", "cannot read 'none:severity=3'"),
        ("noise:severity=9", r"shift\.noise\.severity must be one of 1, 2, 3, 4, 5; got '9'"),
        ("noise:severty=2", r"unknown key 'shift\.noise\.severty'; did you mean"),
        ("../agent/curl", "--shift must be one of "),
    ],
)
def test_what_is_no_look_is_refused_in_one_line(name: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        chosen([name], "--shift")
    assert "\n" not in str(caught.value)


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--shift names no look; known: .*noise.*, all$"):
        chosen([], "--shift")


@pytest.fixture
def bad_input(tally: dict[str, int]) -> None:
    tally["bad inputs"] += 1


@pytest.mark.usefixtures("bad_input")
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")])
def test_a_run_with_an_unknown_look_is_refused_before_anything_is_opened(
    tmp_path: Path, typed: Typed, sweep: tuple[str, ...]
) -> None:
    reason = "eval_shifts must be one of "
    assert_refused(typed, tmp_path, *sweep, "eval_shifts=[noise,nois]", reason=reason)


def test_a_run_is_given_the_settings_of_its_looks(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(train, "train_here", lambda config: given.append(config) or 0)
    typed("eval_shifts=[noise,delay]")
    typed("eval_shifts=noise")
    typed()
    assert [config["eval_shifts"] for config in given] == [
        {name: configured(name) for name in ("noise", "delay")},
        {"noise": configured("noise")},
        None,
    ]
