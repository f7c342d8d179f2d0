"""Workflows of the group `feedback`."""
