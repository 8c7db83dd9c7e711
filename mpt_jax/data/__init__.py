"""seqio task -> token store -> batches."""
