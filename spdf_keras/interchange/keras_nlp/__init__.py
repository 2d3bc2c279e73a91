"""KerasNLP's GPT-2: its weights and its tokenizer, in both directions."""
