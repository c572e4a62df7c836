"""TD3+BC on pixels: DrQ-v2 whose actor also clones the data, V-D4RL's DrQ+BC (Lu et al. 2023).

It learns from recorded data, whose actions the actor must stay near to, because nothing corrects Q
elsewhere. Fujimoto and Gu (2021, eq. 3 and 5) add a cloning term to the actor's loss and scale Q to
its size; everything else is DrQ-v2 (`curl/agents/drqv2.py`). It learns online too, where the data
are the replay buffer's. `configs/agent/td3_bc.yaml` has the settings of V-D4RL's code.

What differs from V-D4RL's code, besides what differs in DrQ-v2: the cloning term is the error of
the actor's action without exploration noise, as in TD3+BC itself. The noise would add to its
variance and, near the limits of actions, push the mean outwards.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from curl.agents.drqv2 import DrQV2
from curl.checks import real
from curl.data.batch import Metrics


class TD3BC(DrQV2):
    """Hyper-parameters as in `configs/agent/td3_bc.yaml`, and the parts it works with.

    Args:
        alpha: weight of Q, whose absolute value is 1 on average, beside cloning. 0: behaviour
            cloning on the critic's features.
        drqv2: see `curl/agents/drqv2.py`.
    """

    def __init__(self, *, alpha: float = 2.5, **drqv2: Any) -> None:
        self.alpha = real("alpha", alpha, low=0)
        super().__init__(**drqv2)

    def actor_loss(self, q: Tensor, mean: Tensor, action: Tensor) -> tuple[Tensor, Metrics]:
        """-lambda E[min_i Q_i(s, pi(s))] + E[(pi(s) - a)^2], lambda = alpha / E|Q|, a constant."""
        weight = self.alpha / q.detach().abs().mean()
        cloning = F.mse_loss(mean, action)
        metrics = {"cloning_loss": cloning.detach(), "q_weight": weight}
        return cloning - weight * q.mean(), metrics
