"""The gateway: a proxy that speaks the APIs of OpenAI and Anthropic, on a stormbreak engine."""
