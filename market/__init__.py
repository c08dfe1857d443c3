"""The rules of the market, pure: book, windows, features, labels, ledger, policy.
Everything that decides lives here, so that labels, backtest and live trading share one definition.
No Ray, no network, no clock, no files: plain values in, plain values out."""
