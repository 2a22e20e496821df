"""The engine around any function: not only an LLM API has storms."""
