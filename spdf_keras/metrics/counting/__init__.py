"""N-grams and edits of many texts at once."""
