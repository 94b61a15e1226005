"""repot_pipelines: the pipeline, and what starts it: on this machine, or on a Kubeflow Pipelines server."""
