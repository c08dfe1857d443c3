"""Generated market, simulated exchange and backtest: everything that trades without a venue.

Imports from `market`, `actors`, `datasets` and `tune` only.
"""
