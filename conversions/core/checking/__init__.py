"""Checks on a written folder, and the truth they are held against."""
