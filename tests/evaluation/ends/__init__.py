"""How the last spans of a process fare, by how it ends: ``make ends`` and the table of docs/process-ends.md."""
