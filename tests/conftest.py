"""One thread (2-thread runs are erratic beside other tests), no wandb, software OpenGL."""

import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

torch.set_num_threads(1)
