"""Training as a Kubernetes Job: what the task does that starts and follows it, and what the Job's pods do."""
