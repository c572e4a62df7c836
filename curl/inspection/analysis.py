"""An agent and its episodes -> the numbers of an inspection. Numbers only: findings.py judges them.

Everything is computed in float32. Nothing of the agent is kept changed: `dynamics`, which makes an
update to measure it, puts the weights back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.data.batch import FrameStacks
from curl.inspection import measures
from curl.inspection.experience import KINDS, Experience
from curl.inspection.measures import Calibration, Confusion
from curl.inspection.parts import Parts
from curl.inspection.saliency import Saliency, saliency
from curl.learning.probing import held_out_r2

EXAMPLES = 2400  # observations that are encoded and decoded
SHEET_ROWS, SHEET_KEYS, PAIRS = 6, 5, 4  # what the retrieval sheet shows
QUERIES = 128  # that compete in retrieval, at most
UNITS = 512  # observations that show which units are dormant
FRAMES = 4  # whose saliency is drawn
ENTROPY_DRAWS = 16
CHUNK = 256  # observations that are encoded at a time
SATURATED = 0.95  # the absolute value beyond which an action counts as saturated
MIXED = ("mean", "random")  # the kinds of episodes that show many states


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Queries and their nearest keys.

    Attributes:
        judge: whose scores these are.
        own: whether they are those of the objective, so that accuracy is its own.
        scores: float [B, B], own keys on the diagonal.
        queries, keys: the newest frames of the views, uint8 [B, size, size, 3].
        episode, step: int [B], where the queries come from; the episode is a number across kinds.
        offset: agent steps from a query to its own key.
        accuracy: of retrieval.
        cosine: mean cosine between the latents of different queries.
        metrics: what the objective reports of the batch.
    """

    judge: str
    own: bool
    scores: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    offset: int
    accuracy: float
    cosine: float
    metrics: Mapping[str, float]

    def shown(self) -> list[int]:
        """The queries of the sheet: evenly spread from the worst to the best retrieved."""
        worst = [pair.query for pair in measures.most_confused(self.scores, len(self))]
        places = np.linspace(0, len(worst) - 1, min(SHEET_ROWS, len(worst)))
        return [worst[int(place)] for place in places.round()]

    def confused(self) -> list[Confusion]:
        return measures.most_confused(self.scores, PAIRS)

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Decoding:
    """R^2 on held-out episodes.

    Attributes:
        names: of what is decoded, K of them.
        latent, trunk, untrained: float [K], from the latent, from the features of the trunk, and
            from those of a trunk that was never trained. NaN for what does not vary.
        held_out, fitted: how many observations there are of each.
    """

    names: Sequence[str]
    latent: np.ndarray
    trunk: np.ndarray
    untrained: np.ndarray
    fitted: int
    held_out: int


@dataclass(frozen=True, eq=False)
class Projected:
    """The latents of one episode in two dimensions.

    Attributes:
        points: float [T, 2]. shares: float [2], of the variance.
        time: int [T]. reward: float [T]. value: float [T], or None without a critic.
    """

    points: np.ndarray
    shares: np.ndarray
    time: np.ndarray
    reward: np.ndarray
    value: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Values:
    """A critic against the returns of actions that the agent draws.

    Attributes:
        q: float [N], min_i Q_i(s, a) of the actions that were taken.
        returns: float [N], their discounted returns, with the critic's own value of what came after
            a cut, and the entropy bonus where the critic has one.
        calibration: of the two.
        cut: the share of the episodes that were cut off.
    """

    q: np.ndarray
    returns: np.ndarray
    calibration: Calibration
    cut: float


@dataclass(frozen=True, eq=False)
class Actions:
    """Mean actions.

    Attributes:
        actions: float [N, A].
        saturated: float [A], the share of them beyond `SATURATED`.
        spread: their standard deviation within an episode.
    """

    actions: np.ndarray
    saturated: np.ndarray
    spread: float


@dataclass(frozen=True)
class Layer:
    """A layer that ends in a ReLU.

    Attributes:
        units: how many; the filters of a convolution.
        dormant, dead: shares of them.
        untrained_dormant: the share in a network that was never trained.
        rank: srank of its activations, of at most `limit`; None for a convolution.
        untrained_rank: that of a network that was never trained.
    """

    name: str
    units: int
    dormant: float
    dead: float
    untrained_dormant: float
    rank: int | None
    untrained_rank: int | None
    limit: int


@dataclass(frozen=True)
class Norms:
    """A module of the agent.

    Attributes:
        weights, untrained: the Euclidean norms of its parameters, and of those that a run of the
            same settings begins with.
        step: the norm of the change that one update makes, divided by that of the weights.
    """

    name: str
    weights: float
    untrained: float
    step: float


@dataclass(frozen=True, eq=False)
class Looks:
    """The saliency of FRAMES observations.

    Attributes:
        frames: uint8 [B, size, size, 3], the newest frame of each view.
        steps: int [B].
        maps: `Q` and `policy`, what the agent has of them -> a map of each observation.
    """

    frames: np.ndarray
    steps: np.ndarray
    maps: Mapping[str, Sequence[Saliency]]

    def agreement(self, name: str) -> float:
        """The mean over the observations; NaN if there is none."""
        found = [each.agreement for each in self.maps[name]]
        return float(np.mean(found)) if np.isfinite(found).all() else float("nan")


@dataclass(frozen=True, eq=False)
class Inspection:
    """All numbers of an inspection; None for what the agent has not, with the reason in `left_out`.

    Attributes:
        facts: what the run is: (name, value).
        updates: how many its agent had made.
        maximum: the largest return that there is, if known.
        returns: kind of episode -> undiscounted returns.
        evaluations: mean returns that the run recorded, oldest first.
        metrics: of one update.
        latent_rank, untrained_latent_rank: srank of the latents, of `latent_dim`, and that of the
            latents of an encoder that was never trained.
        left_out: what is missing, in one line each.
    """

    facts: Sequence[tuple[str, str]]
    updates: int
    maximum: float | None
    returns: Mapping[str, Sequence[float]]
    evaluations: Sequence[float]
    retrieval: Retrieval | None
    decoding: Decoding
    projected: Projected | None
    values: Values | None
    actions: Actions
    layers: Sequence[Layer]
    norms: Sequence[Norms]
    metrics: Mapping[str, float]
    looks: Looks | None
    latent_rank: int | None
    untrained_latent_rank: int | None
    latent_dim: int | None
    left_out: list[str] = field(default_factory=list)


# -- encoding --------------------------------------------------------------------------------------


def chosen(experience: Experience, kinds: Sequence[str], most: int) -> np.ndarray:
    """At most `most` transitions of some kinds of episodes, evenly spread: int [N]."""
    rows = np.flatnonzero(np.isin(experience.kind, [KINDS.index(kind) for kind in kinds]))
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def stacks(experience: Experience, rows: np.ndarray) -> FrameStacks:
    """What was observed before each of these transitions."""
    return experience.replay.batch(torch.from_numpy(rows)).obs


@torch.no_grad()
def encoded(parts: Parts, observed: FrameStacks) -> Tensor:
    """The trunk's features [N, F] of stacks, seen as in evaluations, on the agent's device."""
    each = range(0, len(observed), CHUNK)
    return torch.cat([parts.agent.features(observed[at : at + CHUNK]) for at in each])


def newest_frames(views: Tensor) -> np.ndarray:
    """The newest frame of views [B, C, size, size], which are uint8 or float in [0, 1]: uint8
    [B, size, size, 3]."""
    frames = views[:, -3:].permute(0, 2, 3, 1)
    if frames.dtype != torch.uint8:
        frames = (255 * frames.float()).round().clamp(0, 255).to(torch.uint8)
    return frames.cpu().numpy()


# -- the parts of an inspection --------------------------------------------------------------------


@torch.no_grad()
def retrieval(
    parts: Parts, experience: Experience, generator: torch.Generator, batch_size: int
) -> Retrieval | None:
    """Queries and keys of one batch, of different transitions; None for an agent without encoder.

    Where the run has an objective that compares observations, its scores count. Otherwise it is
    the cosine of latents, of a query view and a key view of the same observation.
    """
    if parts.encoder is None or parts.contrast is None or parts.key_encoder is None:
        return None
    rows = chosen(experience, MIXED, min(QUERIES, batch_size))
    if parts.objective is not None and parts.objective.rows is not None:
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), parts.objective.rows)).astype(int)]
    offsets = parts.agent.offsets
    batch = experience.replay.batch(torch.from_numpy(rows), offsets)
    scores, metrics, valid, offset = None, {}, np.ones(len(rows), dtype=bool), 0
    queries = keys = None
    if parts.objective is not None:
        latents, queries, keys = parts.latents(batch, generator)
        metrics = {name: float(value) for name, value in parts.contrast.loss(latents)[1].items()}
        scores, query = parts.objective.scores(latents), latents.query[0]
        if scores is not None:
            valid, offset = latents.valid[0].cpu().numpy(), parts.objective.key_offsets[0]
    own, judge = scores is not None, "the objective"
    if scores is None or queries is None or keys is None:
        queries, keys = (
            parts.contrast.view(batch.obs, generator),
            parts.contrast.key(batch.obs, generator),
        )
        key_trunk, key_projection = parts.key_encoder
        query = parts.latent(parts.trunk(queries))
        key = key_projection(key_trunk(keys))
        scores = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T
        judge = "the cosine of latents"
    kept = np.flatnonzero(valid)
    matrix = scores.double().cpu().numpy()[np.ix_(kept, kept)]
    return Retrieval(
        judge=judge,
        own=own,
        scores=matrix,
        queries=newest_frames(queries)[kept],
        keys=newest_frames(keys)[kept],
        episode=(experience.kind * (experience.number.max() + 1) + experience.number)[rows][kept],
        step=experience.step[rows][kept],
        offset=offset,
        accuracy=measures.retrieval_accuracy(matrix),
        cosine=measures.mean_cosine(query.double().cpu().numpy()),
        metrics=metrics,
    )


@torch.no_grad()
def decoding(parts: Parts, untrained: Parts, experience: Experience) -> Decoding:
    """Rewards, and the environment's state where it observes one, from features.

    Of every kind of episodes the last third is held out, by its numbers: episodes of different
    kinds begin alike.
    """
    rows = chosen(experience, KINDS, EXAMPLES)
    observed = stacks(experience, rows)
    features = encoded(parts, observed)
    targets, names = [experience.reward[rows, None].astype(np.float64)], ["reward"]
    if experience.state is not None:
        targets, names = [experience.state[rows], *targets], [*experience.state_names, *names]
    y, number = np.concatenate(targets, axis=1), experience.number[rows]
    count = number.max() + 1
    fits = number < max(count - max(1, count // 3), 1)
    episode = experience.kind[rows] * count + number

    def r2(x: Tensor) -> np.ndarray:
        array = x.float().cpu().numpy()
        return held_out_r2(array[fits], y[fits], episode[fits], array[~fits], y[~fits])

    nothing = np.full(y.shape[1], np.nan)
    if fits.all() or len(np.unique(episode[fits])) < 2:
        found = [nothing] * 3
    else:
        latent = nothing if parts.encoder is None else r2(parts.latent(features))
        found = [latent, r2(features), r2(encoded(untrained, observed))]
    return Decoding(names, *found, fitted=int(fits.sum()), held_out=int((~fits).sum()))


@torch.no_grad()
def projected(parts: Parts, experience: Experience) -> Projected | None:
    """The first episode with mean actions; None for an agent without encoder."""
    if parts.encoder is None:
        return None
    rows = experience.rows("mean", 0)
    features = encoded(parts, stacks(experience, rows))
    points, shares = measures.principal_components(parts.latent(features).cpu().numpy())
    value = None
    if parts.value_network is not None or (parts.critic is not None and parts.actor is not None):
        value = parts.value(features).squeeze(1).cpu().numpy()
    return Projected(points, shares, experience.step[rows], experience.reward[rows], value)


@torch.no_grad()
def values(parts: Parts, experience: Experience, generator: torch.Generator) -> Values | None:
    """Q of the actions that the agent drew, against what came of them; None without a critic.

    The first half of each episode counts: what an episode that is cut off earned after the cut is
    not known, and weighs most at its end.
    """
    if parts.critic is None or parts.discount is None:
        return None
    found: list[tuple[np.ndarray, ...]] = []
    episodes = experience.episodes["sample"]
    for number, episode in enumerate(episodes):
        rows = experience.rows("sample", number)
        features = encoded(parts, stacks(experience, rows))
        device = features.device
        taken = torch.from_numpy(experience.action[rows]).to(device)
        q = parts.q(features, taken).squeeze(1).double().cpu().numpy()
        after = encoded(parts, experience.replay.batch(torch.from_numpy(rows[-1:])).next_obs)
        every = torch.cat([features, after])
        draws = (ENTROPY_DRAWS, len(every), taken.shape[1])
        noise = torch.randn(draws, generator=generator, device=device)
        bonus = parts.entropy_bonus(every, noise).double().cpu().numpy()
        tail = 0.0
        if not episode.terminated:
            tail = float(parts.value(after)) if parts.actor is not None else float(q[-1])
        else:
            bonus[-1] = 0.0
        reward = experience.reward[rows].astype(np.float64)
        whole = measures.returns_to_go(reward, parts.discount, bonus=bonus, tail=tail)
        earned = measures.returns_to_go(reward, parts.discount, bonus=bonus)
        half = slice(0, max(1, math.ceil(len(q) / 2)))
        promised = measures.promised(q, parts.discount, tail)
        found.append((promised[half], earned[half], q[half], whole[half]))
    promised, earned, q, whole = (np.concatenate(column) for column in zip(*found, strict=True))
    cut = float(np.mean([not episode.terminated for episode in episodes]))
    return Values(q, whole, measures.calibration(promised, earned, q, whole), cut)


def actions(experience: Experience) -> Actions:
    """The mean actions of the agent in its own episodes."""
    each = [episode.actions for episode in experience.episodes["mean"]]
    every = np.concatenate(each)
    return Actions(every, measures.saturated_share(every, SATURATED), measures.spread(each))


def looks(parts: Parts, experience: Experience) -> Looks | None:
    """The saliency of observations of the first episode with mean actions, evenly spread."""
    rows = experience.rows("mean", 0)
    steps = np.unique(np.linspace(0, len(rows) - 1, FRAMES + 2).round().astype(int)[1:-1])
    seen = parts.agent.query.evaluate(stacks(experience, rows[steps]))
    views = seen.float() / 255 if seen.dtype == torch.uint8 else seen.float()
    functions: dict[str, Callable[[Tensor], Callable[[Tensor], Tensor]]] = {}
    if parts.critic is not None:

        def of_q(view: Tensor) -> Callable[[Tensor], Tensor]:
            with torch.no_grad():
                features = parts.trunk(view[None])
                action = parts.mean_action(features)

            def q(views: Tensor) -> Tensor:
                return parts.q(parts.trunk(views), action.expand(len(views), -1))

            return q

        functions["Q"] = of_q
    if parts.actor is not None:
        functions["policy"] = lambda _: lambda views: parts.raw_action(parts.trunk(views))
    maps = {
        name: [saliency(make(view), view) for view in views] for name, make in functions.items()
    }
    return Looks(newest_frames(views), steps, maps) if maps else None


def activations(parts: Parts, observed: FrameStacks) -> dict[str, np.ndarray]:
    """Name of a layer -> its activations [N, units]: the mean absolute one over a feature map."""
    found: dict[str, list[Tensor]] = {}

    def noting(name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Tensor) -> None:
            active = F.relu(output.detach()).float()
            found.setdefault(name, []).append(
                active.mean((2, 3)).cpu() if active.ndim == 4 else active.cpu()
            )

        return note

    with torch.no_grad():
        features = encoded(parts, observed)
        action = parts.mean_action(features) if parts.actor is not None else None
        handles = [
            layer.register_forward_hook(noting(name)) for name, layer in parts.rectified().items()
        ]
        try:
            encoded(parts, observed)
            if action is not None:
                parts.run(features, action)
        finally:
            for handle in handles:
                handle.remove()
    return {name: torch.cat(kept).numpy() for name, kept in found.items()}


def layers(parts: Parts, untrained: Parts, experience: Experience) -> list[Layer]:
    """Dormant units and effective ranks of the layers that end in a ReLU."""
    observed = stacks(experience, chosen(experience, MIXED, UNITS))
    reference = activations(untrained, observed)
    found = []
    for name, active in activations(parts, observed).items():
        spatial = name.startswith("trunk.")
        rank, before = (
            None if spatial else measures.effective_rank(each) for each in (active, reference[name])
        )
        found.append(
            Layer(
                name,
                active.shape[1],
                measures.dormant_share(active),
                measures.dormant_share(active, 0),
                measures.dormant_share(reference[name]),
                rank,
                before,
                min(active.shape),
            )
        )
    return found


def dynamics(
    parts: Parts, untrained: Parts, experience: Experience, batch_size: int
) -> tuple[list[Norms], dict[str, float]]:
    """What one update does: the norms of weights and steps, and the metrics of the update.

    Two updates are made where the first leaves a part out that is due at every second one. The
    agent is afterwards what it was before.
    """
    agent = parts.agent
    rows = chosen(experience, ("sample", "random"), batch_size)
    batch = experience.replay.batch(torch.from_numpy(rows), agent.offsets)
    before = copy.deepcopy(agent.state())
    weights = {name: copies(module) for name, module in modules(agent).items()}
    steps, metrics = dict.fromkeys(weights, 0.0), {}
    for _ in range(2):
        start = {name: copies(module) for name, module in modules(agent).items()}
        metrics = {name: float(value) for name, value in agent.update(batch).items()} | metrics
        for name, module in modules(agent).items():
            pairs = zip(copies(module), start[name], strict=True)
            change = norm([now - then for now, then in pairs])
            steps[name] = steps[name] or change / max(norm(start[name]), 1e-12)
    agent.load(before)
    first = {name: norm(copies(module)) for name, module in modules(untrained.agent).items()}
    norms = [Norms(name, norm(weights[name]), first[name], steps[name]) for name in weights]
    return norms, metrics


def modules(agent: Any) -> dict[str, nn.Module]:
    """The modules that are trained, by name."""
    names = ("trunk", "actor", "critic", "value", "objective")
    found = {name: getattr(agent, name, None) for name in names}
    return {
        name: module
        for name, module in found.items()
        if isinstance(module, nn.Module) and any(True for _ in module.parameters())
    }


def copies(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all numbers in some tensors."""
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))


def not_finite(agent: Any) -> list[str]:
    """The modules that hold a weight that is not finite."""
    return [
        name
        for name, module in modules(agent).items()
        if not all(torch.isfinite(parameter).all() for parameter in module.parameters())
    ]
