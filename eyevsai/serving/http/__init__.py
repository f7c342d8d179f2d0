"""HTTP server of a registered model: application, versions, workers and metrics."""
