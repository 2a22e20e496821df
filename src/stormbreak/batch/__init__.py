"""Files of prompts pushed through an engine: every row answered or explained, nothing lost."""
