"""Fetch a pre-trained checkpoint, verify it, and store its weights for a backbone."""
