"""A server of runs with the OpenAI completions protocol."""
