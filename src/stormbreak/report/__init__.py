"""Reports: what a storm or a batch came to, as one page or picture that needs nothing from outside."""
