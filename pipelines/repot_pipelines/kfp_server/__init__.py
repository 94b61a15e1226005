"""Client of a Kubeflow Pipelines server: connect, upload pipelines, start and read runs."""
