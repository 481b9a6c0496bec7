"""Text as numbers: vocabulary and streams."""

from jaxrnn.data.text import Chunk, Streams, Vocabulary, split_in_order

__all__ = ["Chunk", "Streams", "Vocabulary", "split_in_order"]
