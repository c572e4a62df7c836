"""CURL: contrastive unsupervised representations for reinforcement learning, in PyTorch."""
