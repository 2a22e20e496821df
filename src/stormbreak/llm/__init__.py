"""What LLM APIs say: errors, headers, streams, usage, presets. Pure: bytes and times in, meaning out."""
