"""The Kubernetes API of the cluster: connect, read nodes and pods, and explain why pods wait."""
