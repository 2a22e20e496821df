"""What calls cost: prices and where they come from, comparisons of providers, and savings of a switch.

Money is US dollars in `Decimal`, prices are per million tokens. Start with `token_prices.py`. The extra `cost` brings the
prices of the market; price files do without it.
"""
