"""Workflows of `eyevsai rollout`."""
