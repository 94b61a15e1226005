"""Shard builder: write the planned TFRecord shards, then merge them into a dataset."""
