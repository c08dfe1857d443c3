"""Ray Serve warns about itself when imported; where warnings are errors it is imported here."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401
