"""Exports of a model to the formats of model servers, phones and other runtimes."""
