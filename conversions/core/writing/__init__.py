"""The transformers folder: weights, config, processor and tokenizer files."""
