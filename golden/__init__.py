"""The truth: numbers recorded from the original implementations, and their forward passes."""
