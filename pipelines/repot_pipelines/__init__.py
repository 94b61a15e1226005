"""The pipeline, and what starts it: this machine, or a Kubeflow Pipelines server."""
