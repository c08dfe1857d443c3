"""The model as a Serve deployment: inputs of many products in, their values out, in one call.

A call costs about a millisecond whatever its size, the model a tenth of that; so whoever needs 55
products asks once for all of them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from tune.checkpoint import load_model


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=64,
    health_check_period_s=2,
    graceful_shutdown_timeout_s=2,
    ray_actor_options={"num_cpus": 0.2},
)
class Predictor:
    """One exported model; it is handed over as bytes, so a replica needs no shared disk."""

    def __init__(self, model_file: bytes) -> None:
        """Load the model. QuaverError if the file is not one that this program can use."""
        torch.set_num_threads(1)  # Rows are few: threads would only wait for each other.
        self._model, _ = load_model(model_file)

    async def predict(
        self,
        medians: NDArray[np.float64],
        bids: NDArray[np.float64],
        asks: NDArray[np.float64],
        signals: NDArray[np.float64],
        product: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Return the values of the five actions, f8[n, 5].

        `medians` [n, 10], `bids` and `asks` [n, 20] as in section 4, `signals` [n, s] that the
        model's recipe names, `product` [n]: the place of each row's product in the model's list of
        products.
        """
        with torch.inference_mode():
            # torch.tensor copies: what a handle delivers may be read-only.
            inputs = [torch.tensor(array) for array in (medians, bids, asks, signals, product)]
            return self._model(*inputs).double().numpy()


def replica_handle(handle: DeploymentHandle) -> DeploymentHandle:
    """Return the same handle as made here, in a replica.

    A handle keeps the transport that was set where it was first made. That is the program that
    built the application, which need not have had Serve's settings when it imported Serve; with
    the slower transport a call takes several times as long.
    """
    return serve.get_deployment_handle(handle.deployment_name, handle.app_name)
