"""`repot doctor`: check machine, storage, Kubeflow Pipelines and cluster, and suggest fixes."""
