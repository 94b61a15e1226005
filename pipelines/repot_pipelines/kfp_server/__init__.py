"""Client of a Kubeflow Pipelines server: connect, upload the pipeline, start runs, read their state."""
