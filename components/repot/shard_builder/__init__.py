"""Pictures in folders become TFRecord shards: plan, build, merge."""
