"""The evaluation report, a single HTML page, and the model card."""
