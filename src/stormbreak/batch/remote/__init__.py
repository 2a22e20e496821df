"""Send rows through the provider's own batch API: submit, poll, fetch."""
