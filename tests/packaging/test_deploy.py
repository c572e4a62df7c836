"""Examples that act with an exported policy: as programs of their own, and as files of an image."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl.data.seeding import seed_everything
from curl.run import exporting
from curl.run.exporting import EXTRA, ONNX_FILE
from curl.run.policy import load, make_env
from support.paths import ROOT
from support.untrained import save, settings

EXAMPLES = ROOT / "examples"
TASKS = {
    "pendulum": {},
    "cartpole_swingup": {"task.max_episode_steps": "null", "shadow_size": "null"},
}


@pytest.fixture(scope="module", autouse=True)
def extra() -> None:
    for name in EXTRA:
        pytest.importorskip(name, reason="extra onnx")


def exported(folder: Path, task: str) -> tuple[Path, Path]:
    """A run and its exported policy."""
    config = settings(task=task, **{"task.action_repeat": 20, **TASKS[task]})
    run, policy = save(folder / "run", config), folder / "policy"
    command = [sys.executable, "-m", "curl", "export", str(run), "--out", str(policy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return run, policy


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported(tmp_path_factory.mktemp("pendulum"), "pendulum")


def played(run: Path, seed: int) -> float:
    """The return of an episode, by this package."""
    policy, env = load(run, device="cpu", precision="float32"), make_env(run)
    with contextlib.closing(env):
        seed_everything(seed, policy.device)
        frame, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            frame, reward, terminated, truncated, _ = env.step(policy.step(frame))
            total, over = total + float(reward), terminated or truncated
    return total


def test_an_episode_of_act_is_an_episode_of_the_run(pendulum: tuple[Path, Path]) -> None:
    """Pendulum draws large frames, which both average over areas."""
    run, policy = pendulum
    assert_same_episode(run, policy, seed=3)


@pytest.mark.slow
def test_an_episode_of_act_in_mujoco_is_an_episode_of_the_run(tmp_path: Path) -> None:
    assert_same_episode(*exported(tmp_path, "cartpole_swingup"), seed=3)


def assert_same_episode(run: Path, policy: Path, seed: int) -> None:
    command = [sys.executable, str(EXAMPLES / "act.py"), str(policy), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (told,) = re.findall(r"^return (-?[\d.]+)$", done.stdout, re.MULTILINE)
    assert float(told) == pytest.approx(played(run, seed), abs=0.02)
    assert float(told) != pytest.approx(played(run, seed + 1), abs=0.02)


@pytest.mark.parametrize("name", ["act.py", "serve.py"])
def test_an_example_needs_neither_pytorch_nor_this_package(name: str) -> None:
    found = re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / name).read_text(), re.MULTILINE)
    foreign = set(found) - sys.stdlib_module_names
    assert foreign == {"numpy", "onnxruntime"} | ({"gymnasium"} if name == "act.py" else set())


# -- the server ------------------------------------------------------------------------------------


@pytest.fixture
def server(pendulum: tuple[Path, Path], tmp_path: Path) -> Iterator[str]:
    """The address of a server, which a SIGINT ends without a word, as `docker stop` sends it."""
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(pendulum[1]), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        try:
            assert it.stdout is not None
            (port,) = re.findall(r"^pendulum on port (\d+)$", it.stdout.readline().strip())
            yield f"http://127.0.0.1:{port}"
            it.send_signal(signal.SIGINT)
            _, said = it.communicate(timeout=30)
            assert it.returncode == 0 and "Traceback" not in said
        finally:
            it.kill()


def asked(address: str, body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(address, data=body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def announced(address: str, length: int) -> tuple[int, Any]:
    """The answer to a body of that length, of which nothing is sent: it is refused unread."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/act")
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def test_the_server_acts_as_the_exported_policy(pendulum: tuple[Path, Path], server: str) -> None:
    folder = pendulum[1]
    card = json.loads((folder / "card.json").read_text())
    assert asked(server) == asked(f"{server}/") == (200, card)
    shape = (3, *card["input"]["shape"][1:])
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    code, answer = asked(f"{server}/act", frames.tobytes())
    assert code == 200
    wanted = exporting.read_onnx(folder / ONNX_FILE)(frames)
    np.testing.assert_allclose(answer["action"], wanted, atol=1e-6)


def test_the_server_refuses_what_is_no_request(pendulum: tuple[Path, Path], server: str) -> None:
    size = 3 * 24 * 24 * 3
    for length in (0, 3, size + 1, 257 * size):
        code, answer = announced(server, length)
        assert code == 400
        wanted = "uint8 [B, 3, 24, 24, 3] with B from 1 to 256"
        assert answer == {"error": f"the body must be {wanted}, got {length} bytes"}
    assert asked(f"{server}/elsewhere")[0] == asked(f"{server}/", b"123")[0] == 404
    assert asked(f"{server}/act", bytes(size))[0] == 200, "it is still there"


# -- the image -------------------------------------------------------------------------------------


def test_the_image_takes_what_the_folder_has(pendulum: tuple[Path, Path]) -> None:
    text = (EXAMPLES / "serve.Dockerfile").read_text()
    lines = re.findall(r"^COPY (.*) \./$", text, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert copied == {"requirements.txt", "card.json", ONNX_FILE, "serve.py"}
    assert copied - {"serve.py"} <= set(os.listdir(pendulum[1]))
    (words,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert json.loads(words) == ["python3", "serve.py", "/policy", "8000"]
    assert "\nSTOPSIGNAL SIGINT\n" in text and "\nUSER 1000\n" in text
    assert "://" not in text
