"""Recipe `auto`: it selects its configuration on the training pictures alone."""
