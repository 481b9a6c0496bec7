"""Named corpora and the data directory."""
