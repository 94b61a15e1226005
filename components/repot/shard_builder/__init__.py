"""Shard builder: write the planned TFRecord shards, then complete the dataset."""
