"""What talks to a Kubeflow Pipelines server: connect, upload, start, follow, schedule; and what checks before that."""
