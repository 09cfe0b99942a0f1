"""What people read of records: pages, Markdown, sections for a terminal. One style for all."""
