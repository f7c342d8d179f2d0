"""Workflows of `watch`: the retraining of a served model."""
