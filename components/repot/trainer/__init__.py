"""The trainer: a data set and a checkpoint to a fine-tuned classifier, resumable after every saved epoch."""
