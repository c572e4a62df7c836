"""Everything that wants a GPU, in one command: `python -m benchmarks.gpu_day --minutes 9`.

It goes through its stages as far as the minutes reach, and the same command goes on where it
stopped. A stage leaves one small file below results/gpu and is not done again (`--again NAME` does
it anew); curves go to results/dmc, as benchmarks.dmc keeps them. A stage that needs more time than
is left is skipped for one that does not, so that no minute is idle.

    machine   what there is: GPU, versions, packages, whether frames are drawn and how fast
    golden    the reference's recorded updates, computed on the GPU (tests/agents/test_golden.py)
    agents    every agent with every objective: what CUDA graphs replay against what is computed
              eagerly (tests/contracts/test_on_gpu.py)
    kernels   benchmarks.kernels: Triton's against PyTorch
    captured  updates replayed from CUDA graphs against eager ones: how far apart, how fast
    speed     benchmarks.speed at batch size 512, against plain
    profile   where an update spends its time, captured and not
    jobs      how many runs side by side make the most env steps per second
    tests     the fast tests, file by file, with the GPU in sight
    dmc       the table with the paper's agent: six tasks, seed by seed, so many runs side by side

`--tiny --device cpu` rehearses all of it with tiny sizes, below runs/rehearsal.

    exit code 0   as far as the minutes reached
              1   a stage failed; the others were done all the same
              2   the command line cannot be followed
              128 + n  signal n arrived; what was finished is kept
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from benchmarks.cells import PRESETS, ROOT, TASKS, shown
from benchmarks.dmc import this_commit, this_machine
from benchmarks.fleet import dies_with
from curl.checks import choice, real
from curl.errors import exits_with_one_line
from curl.files import write_json
from curl.hardware.limits import available_cores
from curl.run.folder import RunFolder

PACKAGES = ("torch", "numpy", "scipy", "yaml", "rich", "pydantic", "hydra", "omegaconf")
PACKAGES += ("gymnasium", "shimmy", "dm_control", "mujoco", "matplotlib", "pytest", "hypothesis")
PACKAGES += ("av", "wandb")  # no stage needs these two, some tests do
STOPPING = 45.0  # seconds before the end of a call at which the runs of `dmc` write checkpoints
JOBS = (1, 2, 4, 6, 8, 12, 16)
GAIN = 1.05  # more runs side by side have to make so many times the env steps per second
UNKNOWN_JOBS = 4  # runs side by side on a GPU before `jobs` was measured
JOB_RUN = ("task=cartpole_swingup", "env_steps=100000000", "eval_every=100000000")
JOB_RUN += ("checkpoint_every=100000000", "save_replay=false", "video=false", "eval_episodes=1")
JOB_RUN += ("logger.wandb=disabled", "threads=1", "eval_processes=1")
SEEDS = ("1", "2", "3", "4", "5")
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Stopped(Exception):  # noqa: N818  it is no error
    """A signal arrived, or the minutes are over."""


@dataclass
class Day:
    """What the stages share.

    Attributes:
        out: folder of the stages' files.
        curves: folder of the curve files of benchmarks.dmc.
        work: folder of run folders and of what the stages print.
        deadline: of `time.monotonic`.
        device: cpu, cuda or cuda:<number>.
        tiny: rehearse with tiny sizes.
    """

    out: Path
    curves: Path
    work: Path
    deadline: float
    device: str
    tiny: bool
    signals: list[int] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the call is over."""
        return self.deadline - time.monotonic()

    def listen(self) -> None:
        """Take the signals that ask to stop."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signals.append(number)

    def check(self) -> None:
        """`Stopped` if the call is over."""
        if self.signals or self.left <= 0:
            raise Stopped

    # -- processes -------------------------------------------------------------------------------

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.work / "logs" / f"{name}.txt"

    def begin(
        self, command: Sequence[str], log: Path, variables: Mapping[str, str] = NO_VARIABLES
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; what it prints goes to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "WANDB_MODE": "disabled", **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with(os.getpid()),
            )

    def call(
        self,
        command: Sequence[str],
        log: Path,
        variables: Mapping[str, str] = NO_VARIABLES,
        *,
        seconds: float | None = None,
    ) -> tuple[int, str]:
        """Run a command: its exit code (-9 if it took more than `seconds`) and what it printed.

        Raises:
            Stopped: the call is over; the command was ended.
        """
        child = self.begin(command, log, variables)
        until = self.deadline if seconds is None else time.monotonic() + seconds
        try:
            while child.poll() is None and time.monotonic() < until:
                self.check()
                time.sleep(0.1)
            if seconds is None and child.poll() is None:
                raise Stopped
        finally:
            end(child)
        return child.returncode, log.read_text(errors="replace")

    # -- files -----------------------------------------------------------------------------------

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a stage's file aside and rename it."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / f"{name}.json", values)

    def read(self, name: str) -> dict[str, Any]:
        """What a stage has written; empty if it has written nothing."""
        path = self.out / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}


def end(child: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ask a process to stop, and kill it and all that it started if it does not."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


# -- what there is -------------------------------------------------------------------------------


def machine(day: Day) -> dict[str, Any]:
    """GPU, versions, packages; frames are drawn and timed."""
    found: dict[str, Any] = {"commit": this_commit(), "cores": available_cores()}
    found |= this_machine(day.device)
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n try:\n"
    program += "  importlib.import_module(name)\n except Exception as error:\n"
    program += "  print(f'MISSING {name}: {error}')"
    _, text = day.call([sys.executable, "-c", program, *PACKAGES], day.log("packages"))
    missing = [line for line in text.splitlines() if line.startswith("MISSING ")]
    found["missing_packages"] = [line.removeprefix("MISSING ") for line in missing]
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        _, text = day.call(["nvidia-smi", query, "--format=csv,noheader"], day.log("nvidia_smi"))
        found["nvidia_smi"] = text.splitlines()
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--draw", "--device", day.device]
    code, text = day.call(command, day.log("draw"))
    lines = text.splitlines()
    return found | {"ok": code == 0, "frame": json.loads(lines[-1]) if code == 0 else lines[-20:]}


def draw(device_name: str) -> int:
    """Draw frames of cartpole and print what one takes; in a process of its own."""
    from curl.hardware.device import choose_device, choose_opengl, renders_in_software

    device = choose_device(device_name)
    backend = choose_opengl("auto", device)

    from curl.data.environment import make_env

    software = renders_in_software(backend, device)
    env = make_env(
        env_id="dm_control/cartpole-swingup-v0",
        action_repeat=8,
        shadow_size=256 if software else None,
    )
    try:
        env.reset(seed=0)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            env.step(env.action_space.sample())
            seconds.append(time.perf_counter() - began)
    finally:
        env.close()
    step = 1000 * statistics.median(seconds)
    print(json.dumps({"opengl": backend, "drawn_by_cpu": software, "agent_step_ms": step}))
    return 0


# -- is it right, and how fast is it -------------------------------------------------------------


def pytest_command(file: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]


def test_device(day: Day) -> dict[str, str]:
    """Variables that let the tests of a process see the GPU."""
    return {"CURL_TEST_DEVICE": "cpu" if day.device == "cpu" else "cuda"}


def outcome(code: int, text: str) -> dict[str, Any]:
    """A pytest run as values. Exit code 5: all tests of the file are deselected."""
    lines = [line for line in text.splitlines() if line.strip()]
    ok = code in (0, 5)
    bad = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    found = {"ok": ok, "exit_code": code, "said": lines[-1] if lines else ""}
    return found if ok else found | {"failures": bad[:50], "end": lines[-60:]}


def tested(day: Day, name: str, file: str) -> dict[str, Any]:
    """One file of tests as a stage."""
    return outcome(*day.call(pytest_command(file), day.log(name), test_device(day)))


def golden(day: Day) -> dict[str, Any]:
    """The reference's recorded updates on this device."""
    return tested(day, "golden", "tests/agents/test_golden.py")


def agents(day: Day) -> dict[str, Any]:
    """Updates and actions of every agent with every objective, replayed and eager."""
    return tested(day, "agents", "tests/contracts/test_on_gpu.py")


def kernels(day: Day) -> dict[str, Any]:
    """Triton's kernels against PyTorch."""
    if day.device == "cpu":
        return {"ok": True, "said": "there are none on a CPU"}
    return benchmark(day, "kernels")


def captured(day: Day) -> dict[str, Any]:
    """Recorded updates against eager ones."""
    sizes = ("--tiny", "--batch", "4", "--updates", "8") if day.tiny else ("--batch", "512")
    return benchmark(day, "captured", *sizes)


def speed(day: Day) -> dict[str, Any]:
    """benchmarks.speed at batch size 512."""
    sizes = ("--quick", "--batch", "2") if day.tiny else ("--batch", "512")
    return benchmark(day, "speed", *sizes)


def benchmark(day: Day, name: str, *arguments: str) -> dict[str, Any]:
    """A benchmark that writes JSON."""
    numbers = day.log(name).with_suffix(".json")
    numbers.parent.mkdir(parents=True, exist_ok=True)
    numbers.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    command += ["--device", day.device, "--json", str(numbers)]
    code, text = day.call(command, day.log(name))
    if code or not numbers.exists():
        return {"ok": False, "exit_code": code, "end": text.splitlines()[-60:]}
    return {"ok": True, "values": json.loads(numbers.read_text()), "printed": text.splitlines()}


def profile(day: Day) -> dict[str, Any]:
    """benchmarks.trace of train.py's variant and, on a GPU, of the one that is not captured."""
    sizes = ("--batch", "2", "--updates", "2") if day.tiny else ("--batch", "512")
    found: dict[str, Any] = {"ok": True}
    for name in ("",) if day.device == "cpu" else ("", "bfloat16 uncaptured"):
        command = [sys.executable, "-m", "benchmarks.trace", *sizes, "--device", day.device]
        command += ["--variant", name] if name else []
        code, text = day.call(command, day.log("profile"))
        found[name or "train.py's variant"] = text.splitlines()[-60:]
        found["ok"] = found["ok"] and code == 0
    return found


def tests(day: Day) -> dict[str, Any]:
    """The fast tests, some files side by side; what is done is kept file by file."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py"))
    if day.tiny:
        files = [
            "tests/run/test_checkpoint.py",
            "tests/learning/test_contrast.py",
            "tests/objectives/test_losses.py",
        ]
    values = day.read("tests_by_file")
    waiting = [file for file in files if file not in values]
    variables = test_device(day)
    side_by_side = 1 if day.tiny else max(1, min(8, available_cores() // 2))
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            day.check()
            while waiting and len(running) < side_by_side:
                file = waiting.pop(0)
                log = day.log(file.removesuffix(".py"))
                running[file] = day.begin(pytest_command(file), log, variables), time.monotonic()
            for file, (child, began) in list(running.items()):
                seconds = time.monotonic() - began
                if child.poll() is None and seconds < 240:
                    continue
                end(child)
                del running[file]
                text = day.log(file.removesuffix(".py")).read_text(errors="replace")
                values[file] = outcome(child.returncode, text) | {"seconds": round(seconds, 1)}
                day.write("tests_by_file", values)
            time.sleep(0.1)
    finally:
        for child, _ in running.values():
            end(child, patience=1)
    failed = {file: value["said"] for file, value in values.items() if not value["ok"]}
    return {"ok": not failed, "files": len(files), "failed": failed}


# -- how many runs side by side ------------------------------------------------------------------


def jobs(day: Day) -> dict[str, Any]:
    """Env steps per second of N runs of cartpole together, for several N, and the N to take."""
    counts = (1, 2) if day.tiny else tuple(n for n in JOBS if n <= available_cores())
    rates = {int(n): float(rate) for n, rate in day.read("jobs_by_count").items()}
    for count in counts:
        if count not in rates:
            rates[count] = env_steps_per_second(day, count, seconds=5 if day.tiny else 25)
            day.write("jobs_by_count", {str(n): rate for n, rate in rates.items()})
        if rates[count] < max(rates.values()):
            break  # more of them only get slower
    return {"ok": min(rates.values()) > 0, "env_steps_per_second": rates, "jobs": best(rates)}


def best(rates: Mapping[int, float]) -> int:
    """The fewest runs that no other number outdoes by 5 % or more."""
    top = max(rates.values())
    return min(n for n, rate in rates.items() if rate * GAIN >= top)


def env_steps_per_second(day: Day, count: int, *, seconds: float) -> float:
    """The rates of `count` runs, added up, over `seconds` in which all of them learn."""
    folders = [day.work / "jobs" / f"{count}_{number}" for number in range(count)]
    sizes = ("log_every=400", "initial_steps=500")
    if day.tiny:
        protocol = ("env_steps", "eval_every", "eval_episodes")
        sizes = tuple(part for part in PRESETS["tiny"] if part.split("=")[0] not in protocol)
        sizes += ("log_every=40",)
    children = []
    try:
        for number, folder in enumerate(folders):
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, str(ROOT / "train.py"), *JOB_RUN, *sizes]
            command += [f"seed={number}", f"run_dir={folder}", f"device={day.device}"]
            log = day.log(f"jobs_{count}_{number}")
            children.append(day.begin(command, log, {"OMP_NUM_THREADS": "1"}))
        before = [0] * count
        while not all(before):
            time.sleep(0.2)
            day.check()
            if any(child.poll() is not None for child in children):
                return 0.0  # a run failed; its log says why
            before = [len(learning(folder)) for folder in folders]
        until = time.monotonic() + seconds
        # A rate needs two rows; a slow machine gets the time that they take.
        while time.monotonic() < until or min(len(learning(f)) for f in folders) < max(before) + 2:
            time.sleep(0.2)
            day.check()
        rows = [learning(f)[since:] for f, since in zip(folders, before, strict=True)]
        return round(sum((r[-1][0] - r[0][0]) / (r[-1][1] - r[0][1]) for r in rows), 1)
    finally:
        for child in children:
            end(child, patience=0)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def learning(folder: Path) -> list[tuple[float, float]]:
    """Env steps and wall seconds of the training rows of a run since it makes updates."""
    path, found = RunFolder(folder).metrics, []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line
            row = json.loads(line)
            if row["kind"] == "train" and row["updates_per_second"] > 0:
                found.append((float(row["env_steps"]), float(row["wall_time"])))
    return found


# -- the table -----------------------------------------------------------------------------------


def dmc(day: Day) -> dict[str, Any]:
    """benchmarks.dmc for the rest of the call. `Stopped` unless the table is complete then."""
    count = int(day.read("jobs").get("jobs", 1 if day.device == "cpu" else UNKNOWN_JOBS))
    tasks, seeds = (TASKS[:1], SEEDS[:2]) if day.tiny else (TASKS, SEEDS)
    stopping = 5.0 if day.tiny else STOPPING
    command = [sys.executable, "-m", "benchmarks.dmc", "--device", day.device, "--nice", "0"]
    command += ["--preset", "tiny" if day.tiny else "paper", "--variants", "curl"]
    command += ["--tasks", ",".join(tasks), "--seeds", ",".join(seeds), "--jobs", str(count)]
    command += ["--minutes", f"{max(day.left - stopping, 1) / 60:.3f}"]
    command += ["--results", str(day.curves), "--runs", str(day.work / "dmc")]
    log = day.log("dmc")
    child = day.begin(command, log)
    told = False
    while child.poll() is None:  # it ends at its own time limit, with checkpoints
        if day.signals and not told:
            child.send_signal(signal.SIGTERM)
            told = True
        if day.left < -60:
            end(child)
        time.sleep(0.1)
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(f"    {line}" for line in lines[-8:]), flush=True)
    if child.returncode not in (0, 1) or (child.returncode == 0 and " 0 left" not in lines[-1]):
        raise Stopped
    return {"ok": child.returncode == 0, "jobs": count, "printed": lines[-60:]}


# -- the command line ----------------------------------------------------------------------------

STAGES: dict[str, tuple[Callable[[Day], dict[str, Any]], float]] = {
    "machine": (machine, 60),
    "golden": (golden, 60),
    "agents": (agents, 180),
    "kernels": (kernels, 60),
    "captured": (captured, 90),
    "speed": (speed, 270),
    "profile": (profile, 90),
    "jobs": (jobs, 60),  # kept one number of runs at a time
    "tests": (tests, 60),  # kept file by file
    "dmc": (dmc, 60),
}
"""Name -> what does it, and the seconds that should be left when it is begun."""

PARTS = {"tests": "tests_by_file", "jobs": "jobs_by_count"}  # files of half-finished stages


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="end the call after these; default: 9")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    add("--stages", nargs="+", default=list(STAGES), metavar="NAME", help="only these")
    add("--again", nargs="+", default=[], metavar="NAME", help="do these anew")
    add("--archive", type=Path, metavar="FILE", help="pack all results into this .tar.gz as well")
    add("--out", type=Path, help="folder of the stages' files, curves go beside it; results/gpu")
    add("--work", type=Path, help="folder of runs and of what they print; runs/gpu_day")
    add("--tiny", action="store_true", help="rehearse with tiny sizes, below runs/rehearsal")
    add("--draw", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    if arguments.draw:
        return draw(arguments.device)
    began = time.monotonic()
    minutes = real("--minutes", arguments.minutes, low=0, open_low=True)
    for name in (*arguments.stages, *arguments.again):
        choice("a stage", name, tuple(STAGES))
    rehearsal = ROOT / "runs/rehearsal"
    out = arguments.out or (rehearsal / "gpu" if arguments.tiny else ROOT / "results/gpu")
    day = Day(
        out=out.resolve(),
        curves=out.resolve().parent / "dmc",
        work=(
            arguments.work or (rehearsal if arguments.tiny else ROOT / "runs") / "gpu_day"
        ).resolve(),
        deadline=began + 60 * minutes,
        device=this_machine(arguments.device)["device"],
        tiny=arguments.tiny,
    )
    day.listen()
    for name in arguments.again:
        for file in (name, PARTS.get(name, name)):
            (day.out / f"{file}.json").unlink(missing_ok=True)
    try:
        failed = go_through(day, [name for name in STAGES if name in arguments.stages])
    finally:
        if arguments.archive is not None:
            pack(day, arguments.archive)
    if day.signals:
        return 128 + day.signals[0]
    return 1 if failed else 0


def go_through(day: Day, names: Sequence[str]) -> list[str]:
    """Do the stages; the names of those that failed, now or in an earlier call."""
    failed, first = [], True
    for name in names:
        work, needs = STAGES[name]
        if values := day.read(name):
            say(f"{name}: {'done' if values['ok'] else 'failed'} before")
        elif day.signals:
            break
        elif day.left < (5 if day.tiny else needs) and not first:
            say(f"{name}: not begun, it wants {needs:.0f} s")
            continue
        else:
            say(f"{name}: begins, {max(day.left, 0):.0f} s are left")
            before, first = time.monotonic(), False
            try:
                values = work(day)
            except Stopped:
                say(f"{name}: not finished; the same command goes on")
                continue
            values |= {"seconds": round(time.monotonic() - before, 1)}
            day.write(name, values)
            say(f"{name}: {'done' if values['ok'] else 'FAILED'}, {shown(day.out / name)}.json")
        if not values["ok"]:
            failed.append(name)
    return failed


def pack(day: Day, archive: Path) -> None:
    """Put the stages' files and the curves into one archive, aside and then renamed."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    aside = archive.with_name(archive.name + ".aside")
    with tarfile.open(aside, "w:gz") as file:
        for folder in (day.out, day.curves):
            if folder.is_dir():
                file.add(folder, arcname=folder.name)
    aside.replace(archive)


def say(line: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    raise SystemExit(exits_with_one_line(run, command_line()))
