"""Tokenizer files of a model folder, by the kind of vocabulary that the original ships."""

from ..core.writing.tokenizers import bert, folder, sentencepiece

__all__ = ["bert", "folder", "sentencepiece"]
