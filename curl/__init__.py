"""CURL: contrastive unsupervised representations for reinforcement learning, in PyTorch."""

from curl.preload import load_triton

load_triton()
