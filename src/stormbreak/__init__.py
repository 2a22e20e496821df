"""stormbreak keeps applications on LLM APIs working through storms, and never makes one worse."""
