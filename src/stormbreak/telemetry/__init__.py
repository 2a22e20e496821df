"""What the engine does, told to logs, metrics, traces and people: listeners of its events, and nothing more."""
