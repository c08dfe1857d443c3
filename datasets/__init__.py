"""Recordings to windows to samples: the tables that training reads, and how they are split.

Everything lies under one root, a local folder or an S3 prefix, in the layout of the definitions.
"""
