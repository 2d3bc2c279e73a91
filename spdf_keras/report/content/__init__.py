"""The text, tables and figures of a report."""
