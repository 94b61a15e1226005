"""Estimate pods, time and cost of a cluster run before it starts, without contacting anything."""
