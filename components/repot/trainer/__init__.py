"""The trainer: fine-tunes a classifier from a dataset and a checkpoint, resumable at any step."""
