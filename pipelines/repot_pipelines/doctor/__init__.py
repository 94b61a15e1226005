"""What of this machine, the storage, Kubeflow Pipelines and the cluster is ready, and what to do about what is not."""
