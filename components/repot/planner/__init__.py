"""Planner: check every parameter, list and split the pictures, deal them to shards, choose the trainer's pod."""
