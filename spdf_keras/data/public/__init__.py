"""Public files of tasks and corpora, downloaded."""
