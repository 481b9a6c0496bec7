"""The train state, training steps, and checkpoints."""
