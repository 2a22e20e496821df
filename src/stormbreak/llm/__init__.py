"""Parse the responses of LLM APIs: errors, headers, streams, usage; and provider presets. Pure."""
