"""Records presented to people: pages, Markdown, sections for a terminal. One style for all."""
