"""The gateway: a proxy that speaks the APIs of OpenAI and Anthropic, on an engine of ours."""
