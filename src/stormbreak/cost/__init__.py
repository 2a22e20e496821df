"""What calls cost: prices and where they come from, what providers cost beside each other, what switching saves.

Money is US dollars in `Decimal`, prices are per million tokens. Start with `prices.py`. The extra `cost` brings the
prices of the market; price files do without it.
"""
