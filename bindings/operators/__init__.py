"""Launchers of the kernels."""
