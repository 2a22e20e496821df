"""The format of each API endpoint: plain and streamed answers, and errors."""
