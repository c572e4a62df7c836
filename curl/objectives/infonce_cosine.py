"""InfoNCE on cosines: NT-Xent of SimCLR (Chen 2020, eq. 1), the loss of MoCo (He 2020, eq. 1).

What differs: keys come from the moving-average encoder as in MoCo, but negatives are the other keys
of the batch as in SimCLR: no queue, and only queries ask for keys (SimCLR's loss is symmetric and
counts the other queries as negatives, too). The latent is scored itself, without a projection head.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from curl.checks import real
from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy
from curl.objectives.infonce import infonce


class InfoNCECosine(Objective):
    """logits = cos(q, k) / temperature; nothing is learnt but the encoder."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = real("temperature", temperature, low=0, open_low=True)

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        logits = self.scores(latents)
        metrics = {"accuracy": retrieval_accuracy(logits)}
        return infonce(logits), metrics | alignment(latents.query[0], latents.key[0])

    def scores(self, latents: Latents) -> Tensor:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        cosine = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T  # [B, B]
        return cosine / self.temperature
