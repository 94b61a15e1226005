"""What a run on a cluster costs, estimated before it starts."""
