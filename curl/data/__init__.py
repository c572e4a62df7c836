"""What is stored and seen: environments and their frames, batches, the replay buffer."""
