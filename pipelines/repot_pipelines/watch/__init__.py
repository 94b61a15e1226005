"""Follow a run on a Kubeflow Pipelines server: its tasks, pod logs and gate verdict."""
