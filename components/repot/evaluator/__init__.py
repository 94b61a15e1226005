"""Evaluate a trained model, decide whether it replaces the champion, and promote it."""
