"""The regression check between two transformers releases: records, their comparison, bisection."""
