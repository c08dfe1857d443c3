"""The learning half: models, objectives, training, the Ray Tune sweep, checkpoints, evaluation.

Ray's own package of that name is always imported as `from ray import tune as ray_tune`.
"""
