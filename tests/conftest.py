"""One thread (2-thread runs are erratic beside other tests), no wandb, headless OpenGL."""

import contextlib
import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

from curl.hardware import OpenGLError, choose_opengl

torch.set_num_threads(1)
with contextlib.suppress(OpenGLError):  # before anything imports MuJoCo's renderer
    choose_opengl("auto", torch.device("cpu"))
