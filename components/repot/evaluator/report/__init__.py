"""The evaluation report: one HTML page, its data, charts and tables, and the model card."""
