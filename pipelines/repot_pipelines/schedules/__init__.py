"""Recurring runs on a Kubeflow Pipelines server."""
