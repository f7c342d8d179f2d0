"""Workflows of the group `monitor`."""
