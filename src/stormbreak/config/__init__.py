"""Policies from presets and TOML files, with errors that name the key and the value."""
