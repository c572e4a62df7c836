"""Many runs: `python -m curl train -m seed=1,2,3`. What Hydra's launchers leave to the program.

On this machine a run of a sweep is a process of its own, started with the command line that would
start it alone: its memory is given back, and a crash or a hang ends no other run. A signal to the
sweep is handed on through a file that all of its processes look at: joblib's workers would die of
it, and joblib kills them all when one dies. On Ray and SLURM a run is in the process that it is
given, and a signal goes to Ray or submitit once the checkpoint is written: they begin it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from curl.checks import needs_extra
from curl.command.looks import with_looks
from curl.command.overrides import RunFailedError, explained, sweep_began
from curl.errors import exits_with_one_line, refuse
from curl.hardware.device import OpenGLError
from curl.run.build import checked, require_machine
from curl.run.checkpoint import verify
from curl.run.folder import RunFolder, position_of, write_config
from curl.run.inputs import taken_in
from curl.study.runs import read_run

HERE = ("BasicLauncher", "JoblibLauncher")  # launchers whose runs get a process of their own
EXTRAS = {
    "joblib": ("joblib", "hydra_plugins.hydra_joblib_launcher", "joblib"),
    "ray": ("ray", "hydra_plugins.hydra_ray_launcher", "ray"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher", "submitit"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
HINT = "label='batch_${batch_size}', for example"
STOP = "CURL_SWEEP_STOP"  # names the file with the signals that this sweep got, one per line


def fail_on_missing_extra(arguments: Sequence[str]) -> None:
    """Exit with one line that names the installation, if a launcher's packages are not there."""
    for argument in arguments:
        name = argument.removeprefix("hydra/launcher=")
        if name in EXTRAS and name != argument:
            try:
                needs_extra(argument, *EXTRAS[name])
            except ValueError as error:
                sys.exit(refuse(str(error)))


# -- before the first run --------------------------------------------------------------------------


class Planned(Callback):
    """Checks every run of a sweep before the first begins, and leaves a config.yaml for each.

    So `python -m curl status` knows those that wait, and a misspelt name is found now and not
    overnight.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        here = config.hydra.launcher["_target_"].split(".")[-1] in HERE
        if here:
            listen()
        # SLURM is told to send what a run understands; submitit's own choice would be SIGUSR2.
        os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
        if config.hydra.sweeper["_target_"].endswith("BasicSweeper"):
            self.check(config, here=here)  # others choose their runs as they go
        sweep_began.set()

    def check(self, config: DictConfig, *, here: bool) -> None:
        """Exit with one line unless every run can begin; `here`: they will run on this machine."""
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        overrides = OmegaConf.to_container(config.hydra.overrides.task)
        assert isinstance(overrides, list)
        planned: dict[str, DictConfig] = {}
        for job in expand([*params, *map(str, overrides)]):
            if signals():
                leave()
            run = composed(job)
            refuse_impossible(run, job, here=here)
            folder = str(run.run_dir)
            if folder in planned:
                sys.exit(refuse(f"two runs would share {folder}; tell them apart: {HINT}"))
            planned[folder] = run
        for folder, run in planned.items():
            announce(Path(folder), run)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The command lines of a sweep's runs, as Hydra's own sweeper makes them."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    choices: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(overrides)):
        key = override.get_key_element()
        if override.is_sweep_override():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
    return [list(job) for job in itertools.product(*choices.values())]


def composed(overrides: list[str]) -> DictConfig:
    """The resolved configuration of one run; exits with one line if there is none."""
    try:
        config = compose("train", overrides=overrides)
        OmegaConf.resolve(config)
        names = OmegaConf.to_container(config)["eval_shifts"]  # pyright: ignore
        config["eval_shifts"] = with_looks({"eval_shifts": names})["eval_shifts"]
        return config
    except Exception as error:  # Hydra's grammar raises AssertionErrors too
        sys.exit(refuse(explained(error)))


def refuse_impossible(config: DictConfig, overrides: list[str], *, here: bool) -> None:
    """Exit with one line if a run could not begin; `here`: it is to run on this machine."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    try:
        settings = checked({str(key): value for key, value in plain.items() if key != "experiment"})
        if here:
            require_machine(str(config.device), str(config.opengl))
            taken_in(settings)
    except (ValueError, OpenGLError) as error:
        sys.exit(refuse(f"{error} (in the run of {' '.join(overrides) or 'the defaults'})"))


def announce(folder: Path, config: DictConfig) -> None:
    """Leave the configuration in the folder of a run that has not begun."""
    if RunFolder(folder).begun:
        return
    settings = OmegaConf.to_container(config)
    assert isinstance(settings, dict)
    with contextlib.suppress(OSError):  # the run itself will say what is wrong
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, {str(key): value for key, value in settings.items()})


# -- one run -------------------------------------------------------------------------------------


def finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a run that reached the budget of `settings`, with its checkpoint.

    Opens no environment and loads no checkpoint, but sees that the newest one is whole.
    """
    try:
        run = read_run(folder, folder.as_posix())
        budget = dataclasses.replace(run, config=settings).budget
        newest = RunFolder(folder).states()[-1]
        if min(run.reached, position_of(newest)) < budget:
            return False
        verify(newest, newest.with_suffix(".sha256").read_text())
    except (OSError, ValueError, IndexError):
        return False
    return True


def run_one(
    config: dict[str, Any],
    *,
    launcher: str,
    command: Sequence[str],
    done: bool,
    train: Callable[[dict[str, Any]], int],
) -> None:
    """One run of a sweep.

    Args:
        launcher: class name of Hydra's launcher.
        command: the command line that starts this run alone.
        done: it is finished already.
        train: starts it in this process; returns an exit code.

    Raises:
        RunFailedError: it failed. Hydra lets the others run, and raises it in the end.
        SystemExit: the sweep got a signal.
    """
    folder = Path(config["run_dir"])
    if not signals():
        if done:
            print(f"{folder}: finished, nothing to do", flush=True)
            return
        if launcher not in HERE:
            code = handing_back_signals(train, config)
        elif launcher == "BasicLauncher":
            code = run_in_subprocess(command)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            output_file = RunFolder(folder).output
            print(f"{folder}: begins; its output: {output_file}", flush=True)
            with output_file.open("a") as output:
                code = run_in_subprocess(command, output)
        if not code:
            return
        if not signals():
            failure = f"{folder} failed: {ending(code)}"
            refuse(failure)  # now; Hydra tells of the first failure alone, in the end
            raise RunFailedError(failure)
    if launcher == "BasicLauncher":
        leave()
    raise RunFailedError(f"{folder}: the sweep was stopped")


def ending(code: int) -> str:
    """An exit code in words."""
    number = -code if code < 0 else code - 128
    if number > 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(number).name}"
    return f"exit code {code}"


def environment_of_runs() -> dict[str, str]:
    """The environment variables of a run's own process: those of this one, without the sweep's.

    `python -m curl` finds the package there, even if train.py was started by its path, from another
    folder and without an installation.
    """
    variables = {name: value for name, value in os.environ.items() if name != STOP}
    here = str(Path(__file__).parents[2])
    if here != sysconfig.get_path("purelib"):
        before = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([here, *([before] if before else [])])
    return variables


def run_in_subprocess(command: Sequence[str], output: Any = None) -> int:
    """Run a command in a process and session of its own, and hand the sweep's signals to it.

    Its own session: a terminal's Ctrl-C reaches it once, through the sweep.
    """
    listen()
    parent, told = os.getppid(), 0
    process = subprocess.Popen(
        command,
        env=environment_of_runs(),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
    )
    while (code := process.poll()) is None:
        orphaned = [signal.SIGTERM] * (os.getppid() != parent)
        for number in (*signals(), *orphaned)[told:]:
            process.send_signal(number)
            told += 1
        time.sleep(0.1)
    return code


def handing_back_signals(train: Callable[[dict[str, Any]], int], config: dict[str, Any]) -> int:
    """Train here; a signal that stopped it then goes to whoever was to have it before.

    That is submitit, which queues the job again, or Ray, whose worker ends and is retried.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    code = exits_with_one_line(train, config)
    for number, handler in before.items():
        signal.signal(number, handler)
    if code > 128:
        signal.raise_signal(code - 128)
    return code


# -- signals -------------------------------------------------------------------------------------


def listen() -> None:
    """Take SIGINT, SIGTERM and SIGUSR1 from now on: in the sweep note them, in its workers wait."""
    leader = STOP not in os.environ
    if leader:
        handle, os.environ[STOP] = tempfile.mkstemp(prefix="curl-sweep-")
        os.close(handle)
        for number in SIGNALS:
            signal.signal(number, note)
    elif signal.getsignal(signal.SIGTERM) is not note:
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)


def note(number: int, _: FrameType | None) -> None:
    """The first signal asks to stop, the second ends the runs at once, the third the sweep too."""
    with Path(os.environ[STOP]).open("a") as file:
        file.write(f"{number}\n")
    if len(signals()) > 2:
        os._exit(128 + number)


def signals() -> list[int]:
    """The signals that this sweep got so far."""
    if STOP not in os.environ:
        return []
    try:
        return [int(line) for line in re.findall(r"\d+", Path(os.environ[STOP]).read_text())]
    except FileNotFoundError:
        return [signal.SIGTERM]  # the sweep has left


def leave() -> None:
    """At a sweep's end: exit with 128 + signal if there was one."""
    got = signals()
    if path := os.environ.pop(STOP, None):
        Path(path).unlink(missing_ok=True)
    if got:
        sys.exit(128 + got[0])
