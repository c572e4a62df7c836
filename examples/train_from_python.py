"""Train a small agent from Python, and let it act: python examples/train_from_python.py

More arguments are settings as on the command line, such as env_steps=5000. The same settings resume
the run.
"""

import sys

import curl

run = curl.train(
    *("experiment=laptop", "task=cartpole_swingup", "seed=1", "logger.wandb=disabled"),
    *("env_steps=20000", "eval_every=5000"),
    *sys.argv[1:],
)
print(f"the run is in {run}")

policy = curl.load(run)
env = curl.make_env(policy)
frame, _ = env.reset(seed=0)
policy.reset()
over, total = False, 0.0
while not over:
    frame, reward, terminated, truncated, _ = env.step(policy.step(frame))
    over, total = terminated or truncated, total + float(reward)
env.close()
print(f"return {total:.1f} after {policy.env_steps:,} env steps of training")
