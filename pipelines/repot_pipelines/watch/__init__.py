"""Follow a run on a Kubeflow Pipelines server: tasks, logs, the gate's verdict."""
