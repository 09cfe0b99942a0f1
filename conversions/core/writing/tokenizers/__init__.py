"""Tokenizer files of a model folder, in a form that every supported transformers version loads."""
