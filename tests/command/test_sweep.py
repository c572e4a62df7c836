"""Sweeps: what presets expand to, what is skipped, how a run's state is told; slow: real sweeps.

Runs of the slow tests are those of support/programs.py: 50 env steps an agent step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from rich.console import Console

from curl.command import sweep
from curl.command.status import main
from curl.errors import exits_with_one_line
from curl.run.checkpoint import sha256
from curl.run.folder import last_holder, locked
from curl.study.status import find, status, table
from support.paths import CONFIGS, ROOT
from support.programs import ENVIRONMENT, SETTINGS, rows
from support.synthetic_runs import make_run

PLANET = ("finger_spin", "cartpole_swingup", "reacher_easy")
PLANET += ("cheetah_run", "walker_walk", "ball_in_cup_catch")


TASK = "task=walker_walk"


# -- presets -------------------------------------------------------------------------------------


def planned(preset: str, *overrides: str) -> list[dict[str, Any]]:
    """The configurations of `python train.py -m experiment=<preset> <overrides>`, one seed of each.

    Seeds are counted as well: every configuration has as many, in `seeds`.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = compose("train", [f"experiment={preset}"], return_hydra_config=True).hydra
        params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
        jobs = sweep.expand([*params, f"experiment={preset}", *overrides])
        seeds = {part for job in jobs for part in job if part.startswith("seed=")}
        first = [job for job in jobs if min(seeds) in job]
        assert len(jobs) == len(first) * len(seeds)
        configs = [dict(sweep.composed(job)) | {"seeds": len(seeds)} for job in first]
    folders = {config["run_dir"] for config in configs}
    assert len(folders) == len(configs), "runs share a folder"
    return configs


@pytest.mark.parametrize(("preset", "budget"), [("dmc100k", 100_000), ("dmc500k", 500_000)])
def test_dmc_presets_are_six_tasks_and_five_seeds_of_the_paper(preset: str, budget: int) -> None:
    configs = planned(preset)
    assert {config["task"]["name"] for config in configs} == set(PLANET)
    for config in configs:
        assert (config["seeds"], config["env_steps"], config["batch_size"]) == (5, budget, 512)
        assert config["label"] == "curl-crop-infonce"


def test_the_control_is_dmc100k_without_an_objective() -> None:
    control, preset = planned("crop_only_control"), planned("dmc100k")
    assert {config["label"] for config in control} == {"curl-crop-none"}
    different = {"objective", "label", "run_dir", "experiment"}
    for one, other in zip(control, preset, strict=True):
        assert {key for key in one if one[key] != other[key]} <= different


def test_studies_name_every_choice() -> None:
    """With globs, so that a new file joins by itself."""
    studied = {config["augmentation"]["label"] for config in planned("augmentation_study", TASK)}
    assert studied == {p.stem for p in CONFIGS.glob("augmentation/*.yaml")} - {
        "crop_reference",
        "shift_small",
    }
    studied = {config["objective"]["name"] for config in planned("objective_study", TASK)}
    assert studied == {path.stem for path in CONFIGS.glob("objective/*.yaml")}


def test_the_light_study_leaves_the_variant_open() -> None:
    configs = planned(
        "light_study", "augmentation=crop,gaussian", "objective=infonce,none", "seed=1,2"
    )
    labels = {config["label"] for config in configs}
    assert labels == {f"curl-{a}-{o}" for a in ("crop", "gaussian") for o in ("infonce", "none")}
    for config in configs:
        assert (
            config["augmentation"]["query"]["size"] == config["augmentation"]["key"]["size"] == 54
        )
        assert config["run_dir"].startswith(f"runs/light_study/cartpole_swingup/{config['label']}/")


def test_the_command_line_overrules_a_preset() -> None:
    (config,) = planned("dmc100k", "task=walker_walk", "seed=7")
    assert (config["task"]["name"], config["seed"], config["seeds"]) == ("walker_walk", 7, 1)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [
        ("ray", "ray"),
        ("submitit_slurm", "slurm"),
        ("submitit_local", "slurm"),
        ("joblib", "joblib"),
    ],
)
def test_a_missing_extra_is_named(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        sweep.fail_on_missing_extra(["-m", "seed=1,2", f"hydra/launcher={launcher}"])
    assert caught.value.code == 2
    command = f"pip install -e '.[{extra}]' -c constraints.txt"
    assert (
        capsys.readouterr().err == f"error: hydra/launcher={launcher} needs an extra: {command}\n"
    )
    sweep.fail_on_missing_extra(["-m", "seed=1,2", "hydra/launcher=basic"])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["batch_size=64,128"], "two runs would share runs/cartpole_swingup/curl-crop-infonce"),
        (["augmentation=crop,crap"], "unknown augmentation 'crap'; did you mean crop"),
    ],
    ids=str,
)
def test_a_sweep_is_checked_before_it_begins(
    overrides: list[str], reason: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *overrides],
        **{"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True},
        timeout=120,
    )
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("config.yaml"))


# -- finished runs -------------------------------------------------------------------------------


def complete(folder: Path) -> Path:
    """Add the checkpoint that a run of 100k env steps ends with."""
    (folder / "checkpoints").mkdir()
    state = folder / "checkpoints" / "state-100000.pt"
    state.write_bytes(b"tensors")
    state.with_suffix(".sha256").write_text(sha256(state))
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text()) | changes


def test_a_finished_run_is_known(tmp_path: Path) -> None:
    folder = complete(make_run(tmp_path))
    assert sweep.finished(folder, settings(folder))
    assert sweep.finished(folder, settings(folder, env_steps=50_000))
    assert not sweep.finished(folder, settings(folder, env_steps=200_000))
    assert not sweep.finished(tmp_path / "nothing", settings(folder))


def no_state(folder: Path) -> None:
    (folder / "checkpoints" / "state-100000.pt").unlink()


def damaged_state(folder: Path) -> None:
    (folder / "checkpoints" / "state-100000.pt").write_bytes(b"tensor")


def no_last_evaluation(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))


def no_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


@pytest.mark.parametrize("lack", [no_state, damaged_state, no_last_evaluation, no_config])
def test_what_lacks_something_is_not_finished(lack: Callable[[Path], None], tmp_path: Path) -> None:
    folder = complete(make_run(tmp_path))
    wanted = settings(folder)
    lack(folder)
    assert not sweep.finished(folder, wanted)


def run_one(folder: Path, launcher: str, code: int, **options: Any) -> list[Any]:
    """What `sweep.run_one` trained."""
    trained: list[Any] = []
    sweep.run_one(
        {"run_dir": str(folder)},
        launcher=launcher,
        command=[sys.executable, "-c", f"raise SystemExit({code})"],
        train=lambda config: trained.append(config) or code,
        **{"done": False, **options},
    )
    return trained


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a sweep does to this process."""
    before = {number: signal.getsignal(number) for number in sweep.SIGNALS}
    monkeypatch.delenv(sweep.STOP, raising=False)
    yield
    with contextlib.suppress(SystemExit):
        sweep.leave()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_a_finished_run_is_not_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for launcher in ("BasicLauncher", "JoblibLauncher", "RayLauncher"):
        assert not run_one(tmp_path, launcher, code=3, done=True)
    assert capsys.readouterr().out.count("finished, nothing to do") == 3


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("launcher", ["BasicLauncher", "JoblibLauncher", "RayLauncher"])
def test_a_failed_run_is_an_error(launcher: str, tmp_path: Path) -> None:
    assert len(run_one(tmp_path, launcher, code=0)) == (launcher == "RayLauncher")
    with pytest.raises(sweep.RunFailedError, match="failed: exit code 3"):
        run_one(tmp_path, launcher, code=3)


@pytest.mark.usefixtures("own_signals")
def test_a_signal_goes_to_the_run_and_ends_the_sweep(tmp_path: Path) -> None:
    sweep.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:  # without starting the run
        run_one(tmp_path, "BasicLauncher", code=0)
    assert caught.value.code == 128 + signal.SIGTERM
    sweep.listen()
    sweep.note(signal.SIGINT, None)
    assert sweep.run_in_subprocess(["sleep", "60"]) == -signal.SIGINT


@pytest.mark.usefixtures("own_signals")
def test_a_signal_that_stopped_a_run_in_its_process_is_handed_back() -> None:
    """To submitit, which queues the job again, or Ray."""
    handed: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: handed.append(number))

    def stopped(_: dict[str, Any]) -> int:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        return 128 + signal.SIGUSR1

    assert sweep.handing_back_signals(stopped, {}) == 128 + signal.SIGUSR1
    assert handed == [signal.SIGUSR1]


# -- the table -----------------------------------------------------------------------------------


def process_that_died() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def locked_by(folder: Path, process: int, host: str, *, seconds_ago: float = 0) -> None:
    (folder / "lock").write_text(f"process {process} on {host}\n")
    when = time.time() - seconds_ago
    for file in folder.glob("*"):
        os.utime(file, (when, when))


def test_states(tmp_path: Path) -> None:
    """Every state, on this machine and another."""
    here = socket.gethostname()
    finished = make_run(tmp_path, seed=1)
    locked_by(finished, process_that_died(), here)
    killed, running, failed, far, far_and_silent, reused, waiting = (
        make_run(tmp_path, seed=seed, steps=(0, 20_000)) for seed in range(2, 9)
    )
    for folder in (killed, failed):
        locked_by(folder, process_that_died(), here)
    (failed / "failure.txt").write_text("critic_loss became nan at env step 20400\n")
    locked_by(far, process_that_died(), "elsewhere", seconds_ago=60)
    locked_by(far_and_silent, process_that_died(), "elsewhere", seconds_ago=3600)
    locked_by(reused, os.getpid(), here)  # a living process of that number, but not a run
    (waiting / "metrics.jsonl").unlink()
    with locked(running):
        told = {int(each.name[-1]): each for each in find([tmp_path])}
    assert [told[seed].state for seed in range(1, 9)] == [
        *("finished", "stale", "running", "failed"),
        *("running", "stale", "stale", "waiting"),
    ]
    assert told[4].note == "critic_loss became nan at env step 20400"
    assert told[6].age == pytest.approx(3600, abs=60)
    assert status(running).state == "stale"  # its lock was let go


def test_a_run_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(["no row", *lines]))
    told = status(folder, "it")
    assert (told.state, told.note) == ("failed", "it/metrics.jsonl, line 1 is not a row of metrics")


def test_a_half_written_row_hides_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, steps=(0, 20_000))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "env_steps": 20_400}) + '\n{"kind": "tra')
    run = status(folder).run
    assert run is not None and (run.env_steps, run.reached) == (20_400, 20_000)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs", seed=1, final=321)
    make_run(tmp_path / "runs", "gaussian", seed=2, steps=(0, 40_000), final=100)
    make_run(tmp_path / "runs", task="walker_walk", seed=1, steps=())
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(find([tmp_path / "runs"])))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "run state env steps of return at returns updated"
    assert lines[1] == (
        "cartpole_swingup/curl-crop-infonce/seed_1 finished 100,000 100,000 321.0 100,000 ▁▂▄▅▇█ "
        "0 s ago"
    )
    assert lines[2] == (
        "cartpole_swingup/curl-gaussian-infonce/seed_2 stale 40,000 100,000 40.0 40,000 ▁▂ 0 s ago"
    )
    assert lines[3] == "walker_walk/curl-crop-infonce/seed_1 stale 400 100,000 - - - 0 s ago"
    assert lines[-1] == "3 runs in runs: 1 finished, 2 stale"


def curves(width: int, top: Path, encoding: str = "utf-8") -> list[str]:
    """The column of curves; empty where there is none."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(find([top]), width, encoding))
    head, *rows = console.export_text().splitlines()[:-2]
    if " returns " not in head:
        return []
    begin = head.index(" returns ") + 1
    return [cell for row in rows if (cell := row[begin:].split("  ")[0].strip())]


def test_a_narrow_terminal_gets_no_curves(tmp_path: Path) -> None:
    """Rather than a block of lines per run, which would still have them."""
    make_run(tmp_path / "a_rather_long_name", seed=1)
    assert curves(120, tmp_path) == curves(75, tmp_path) == ["▁▂▄▅▇█"]
    assert curves(66, tmp_path) == []
    console = Console(width=40, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(find([tmp_path]), 40))
    assert "  returns: ▁▂▄▅▇█\n" in console.export_text()


@pytest.mark.parametrize(
    ("encoding", "curve"), [("utf-8", "▁▂▄▅▇█"), ("ascii", "_.=+%#"), ("latin-1", "_.=+%#")]
)
def test_a_terminal_without_block_characters_gets_ascii(
    tmp_path: Path, encoding: str, curve: str
) -> None:
    make_run(tmp_path, seed=1)
    assert curves(120, tmp_path, encoding) == [curve]


def test_the_encoding_of_the_terminal_decides(tmp_path: Path) -> None:
    make_run(tmp_path, seed=1)
    for encoding, curve in (("ascii", "_.=+%#"), ("utf-8", "▁▂▄▅▇█")):
        done = subprocess.run(
            [sys.executable, "-m", "curl", "status", str(tmp_path)],
            env=ENVIRONMENT | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0 and curve in done.stdout.decode(encoding)


def test_runs_of_one_task_share_the_scale_of_their_curves(tmp_path: Path) -> None:
    """Negative returns too, which lie below 0 and not at the bottom of each run's own scale."""
    for seed, final in ((1, 800), (2, 400), (3, -800)):
        make_run(tmp_path, seed=seed, final=final)
    make_run(tmp_path, task="walker_walk", final=50)
    high, middle, low, other = curves(120, tmp_path)
    assert high[-1] == "█" and low[-1] == "▁" and other == "▁▂▄▅▇█"
    assert high[0] == middle[0] == low[0] and "▄" < middle[-1] < "█"


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits_with_one_line(main, [str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: no run in {tmp_path}\n"


# -- real sweeps ---------------------------------------------------------------------------------


def launch(top: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start a sweep of tiny runs below `top`, 60 agent steps each."""
    tiny = SETTINGS | {"env_steps": 3000, "eval_every": 1000, "checkpoint_every": 1000}
    tiny |= {"replay.capacity": 200}
    arguments = [f"{key}={value}" for key, value in tiny.items()]
    arguments += [f"run_dir={top}/seed_${{seed}}", f"hydra.sweep.dir={top}", *overrides]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *arguments],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def process_at(folder: Path, env_steps: int) -> int:
    """Wait until a run has logged `env_steps`; the number of its process."""
    started = time.monotonic()
    while time.monotonic() - started < 300:
        with contextlib.suppress(FileNotFoundError):
            if rows(folder)[-1]["env_steps"] >= env_steps:
                found = last_holder(folder)
                assert found is not None and found.process is not None
                return found.process
        time.sleep(0.02)
    raise AssertionError(f"{folder} did not reach {env_steps} env steps")


def states(top: Path) -> list[str]:
    return [each.state for each in find([top])]


def assert_trained_once(top: Path) -> None:
    """No row twice and none missing, whatever happened in between."""
    for folder in sorted(top.glob("seed_[1-9]")):
        steps = [row["env_steps"] for row in rows(folder) if row["kind"] == "train"]
        assert steps == list(range(50, 3001, 50)), folder


def assert_skips(top: Path, *overrides: str) -> None:
    """The same sweep again trains nothing."""
    started = time.time()
    before = {path: path.read_text() for path in top.glob("seed_[1-9]/metrics.jsonl")}
    process = launch(top, *overrides)
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    assert len(before) >= 3 and {path: path.read_text() for path in before} == before
    assert max(path.with_name("lock").stat().st_mtime for path in before) < started


def assert_finishes(process: subprocess.Popen[str], top: Path, *overrides: str) -> str:
    """The sweep trains each of its four runs to the end, once; returns what it printed."""
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    assert states(top) == ["finished"] * 4
    assert_trained_once(top)
    assert_skips(top, *overrides)
    return printed


@pytest.mark.slow
def test_one_after_another(tmp_path: Path) -> None:
    """A run that fails and one that is killed stop no other; a signal does; then it goes on."""
    damaged = tmp_path / "seed_0" / "checkpoints" / "state-1000.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no tensors")
    process = launch(tmp_path, "seed=0,1,2,3")
    os.kill(process_at(tmp_path / "seed_1", 1500), signal.SIGKILL)
    process_at(tmp_path / "seed_2", 1500)
    assert states(tmp_path) == ["failed", "stale", "running", "waiting"]
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert f"all 1 checkpoints in {damaged.parent} are damaged" in printed
    assert "seed_0 failed: exit code 2" in printed
    assert "seed_1 failed: ended by SIGKILL" in printed
    assert states(tmp_path) == ["failed", "stale", "stale", "waiting"]
    process = launch(tmp_path, "seed=1,2,3")
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    assert printed.count("resumed at") == 2
    assert_trained_once(tmp_path)
    assert_skips(tmp_path, "seed=1,2,3")


@pytest.mark.slow
def test_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra joblib")
    overrides = ["seed=1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = launch(tmp_path, *overrides)
    os.kill(process_at(tmp_path / "seed_1", 1500), signal.SIGKILL)
    process_at(tmp_path / "seed_3", 1500)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, printed
    assert "seed_1 failed: ended by SIGKILL" in printed
    assert "running" not in states(tmp_path)
    assert_finishes(launch(tmp_path, *overrides), tmp_path, *overrides)


@pytest.mark.slow
def test_on_ray_a_killed_run_is_retried(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="extra ray")
    overrides = ["seed=1,2,3,4", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
    process = launch(tmp_path, *overrides)
    os.kill(process_at(tmp_path / "seed_1", 1500), signal.SIGKILL)
    printed = assert_finishes(process, tmp_path, *overrides)
    assert "resumed at 1,000 env steps" in printed


@pytest.mark.slow
def test_on_submitit_a_preempted_run_is_queued_again(tmp_path: Path) -> None:
    """And a killed one is taken up by the next launch."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra slurm")
    overrides = ["seed=1,2,3,4", "hydra/launcher=submitit_local"]
    process = launch(tmp_path, *overrides)
    os.kill(process_at(tmp_path / "seed_2", 1500), signal.SIGUSR1)
    os.kill(process_at(tmp_path / "seed_4", 1500), signal.SIGKILL)
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 1, printed
    assert states(tmp_path) == ["finished", "finished", "finished", "stale"]
    assert_finishes(launch(tmp_path, *overrides), tmp_path, *overrides)
