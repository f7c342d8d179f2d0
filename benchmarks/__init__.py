"""Benchmarks of speed, memory and accuracy, each compared with a peer or a limit."""
