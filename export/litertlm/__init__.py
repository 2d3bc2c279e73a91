"""LiteRT-LM bundles: model, tokenizer and prompt template in one file."""
