"""Gradual rollout of a candidate version: shares, evidence and decisions."""
