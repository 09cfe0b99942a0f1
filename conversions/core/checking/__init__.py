"""Checks on a written folder, and the references they compare it with."""
