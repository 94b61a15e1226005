"""Inputs of the planner: what PICTURES may be, and the one record per picture that it becomes."""
