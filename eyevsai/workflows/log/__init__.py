"""Workflows of the group `log`."""
