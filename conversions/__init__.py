"""Convert original checkpoints to Hugging Face transformers folders, and prove it."""
