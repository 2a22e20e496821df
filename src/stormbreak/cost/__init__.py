"""The cost of calls: prices and their sources, comparisons of providers, and savings of a migration.

Money is US dollars in `Decimal`, prices are per million tokens. Start with `token_prices.py`. The extra `cost` adds the
prices of the market; price files work without it.
"""
