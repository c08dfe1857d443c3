"""Serving: the model behind HTTP and a handle, and the execution that trades on what it says.

Ray Serve runs three deployments (model, execution, HTTP); what decides is plain code without Ray.
"""
