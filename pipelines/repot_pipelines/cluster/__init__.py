"""The Kubernetes API of the cluster: connect, and compare its nodes with what pods request."""
