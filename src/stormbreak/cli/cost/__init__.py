"""`stormbreak cost`: prices, comparisons, migrations, and the cost of a batch."""
