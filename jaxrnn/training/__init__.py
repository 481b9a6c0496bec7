"""The train state, truncated back-propagation through time, and checkpoints."""
