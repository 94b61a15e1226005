"""Recurring runs on a Kubeflow Pipelines server, addressed by name."""
