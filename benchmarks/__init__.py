"""Hot paths, each measured beside a named yardstick in the same run: `make bench`.
Machines are shared and noisy, so the ratio is the figure; absolute times mean little.
Nothing imports this."""
