"""Text as numbers: vocabulary and streams."""
