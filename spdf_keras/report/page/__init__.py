"""How a report is shown: HTML, Markdown, figures."""
