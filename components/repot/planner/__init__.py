"""Planner: check parameters, split the pictures, plan the shards, choose the trainer's pod."""
