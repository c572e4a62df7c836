"""Let an exported policy act in its Gymnasium environment: python examples/act.py policy [seed]

It needs NumPy, ONNX Runtime, and the package of the environment.
"""

import json
import os
import sys
from collections import deque
from pathlib import Path

import gymnasium
import numpy as np
import onnxruntime

os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo draws without a screen
folder, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
card = json.loads((folder / "card.json").read_text())
policy = onnxruntime.InferenceSession(folder / "policy.onnx")
task, size = card["environment"], card["environment"]["render_size"]


def frame(env: gymnasium.Env) -> np.ndarray:
    """What the environment shows, uint8 [size, size, 3]: averaged over areas if it is larger."""
    pixels = env.render()
    for axis in (0, 1):
        edges = np.arange(size + 1) * pixels.shape[axis]
        parts = zip(edges[:-1] // size, -(-edges[1:] // size), strict=True)
        means = [pixels.take(range(*part), axis).mean(axis, dtype=float) for part in parts]
        pixels = np.stack(means, axis)
    return np.rint(pixels).astype(np.uint8)


env = gymnasium.make(task["id"], render_mode="rgb_array", **task["kwargs"])
env.reset(seed=seed)
frames, total, over = deque([frame(env)] * task["frame_stack"], task["frame_stack"]), 0.0, False
while not over:
    action = policy.run(["action"], {"frames": np.stack(frames)[None]})[0][0]
    for _ in range(task["action_repeat"]):
        _, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
        if over:
            break
    frames.append(frame(env))
env.close()
print(f"return {total:.2f}")
