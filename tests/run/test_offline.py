"""The offline loop, and what a run takes in: a dataset, and what another run has learned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import curl
from curl.agents.drqv2 import DrQV2
from curl.agents.sac import SAC
from curl.data.batch import Batch, Metrics
from curl.data.episode import Origin
from curl.data.seeding import Stream, episode_seed
from curl.data.writing import write
from curl.run import inputs
from curl.run.build import checked
from curl.run.folder import RunFolder, read_config
from curl.run.start import train
from support import offline
from support.equality import assert_equal as assert_equal_at
from support.faulty import EDGE
from support.offline import newest
from support.programs import rows, timeless
from support.recorded import STEPS, played

NAME = "sound/random-v0"
EPISODES = 4


@pytest.fixture(autouse=True, scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dataset of random actions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        write(NAME, [played(seed) for seed in range(EPISODES)], origin())
        yield


def origin(**changes: Any) -> Origin:
    from support.datasets import origin as facts

    return facts(EDGE, action_dim=1, **changes)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert_equal_at(ours, theirs, "")


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return offline.config(folder, **{"dataset": NAME} | changes)


def test_a_run_learns_from_a_dataset_alone(tmp_path: Path) -> None:
    assert train(config(tmp_path)) == 0
    state = newest(tmp_path)
    assert state["axis"] == "updates" and state["segments"] == []
    assert (state["counters"]["updates"], state["counters"]["env_steps"]) == (12, 0)
    assert read_config(tmp_path)["used"]["axis"] == "updates"
    kinds = [(row["kind"], row["updates"]) for row in rows(tmp_path)]
    assert [at for kind, at in kinds if kind == "evaluation"] == [0, 6, 12]
    assert [at for kind, at in kinds if kind == "train"] == [2, 4, 6, 8, 10, 12]
    assert [path.stem for path in RunFolder(tmp_path).states()] == ["state-8", "state-12"]


@pytest.mark.parametrize("agent", ["curl", "drqv2"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(agent: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sizes = {"agent": agent, "batch_size": 8, "updates_per_step": 1}
    assert train(config(whole, **sizes)) == 0
    assert train(config(parts, **sizes, updates=7)) == 0
    assert train(config(parts, **sizes)) == 0
    for key in ("agent", "generator", "counters", "metrics"):
        assert_equal(newest(parts)[key], newest(whole)[key])
    at_seven = [row for row in timeless(parts) if row["updates"] == 7]
    assert [row["kind"] for row in at_seven] == ["evaluation"]  # the first budget ended there
    assert [row for row in timeless(parts) if row not in at_seven] == timeless(whole)


def test_the_agent_cannot_tell_which_loop_it_learns_in(tmp_path: Path) -> None:
    """The same buffer, generator and number of updates: the same weights."""
    from curl.run.build import build_agent

    settings = checked(config(tmp_path))
    assert train(settings) == 0
    found = inputs.recorded(settings)
    assert found is not None
    from curl.data.seeding import seed_everything

    generator = seed_everything(settings["seed"], torch.device("cpu"))
    agent = build_agent(settings, action_dim=1, generator=generator)
    replay = found.replay(frame_stack=settings["frame_stack"])
    for _ in range(12):
        agent.update(replay.sample(8, generator, agent.offsets))
    assert_equal(newest(tmp_path)["agent"], agent.state())


def test_some_episodes_of_a_dataset(tmp_path: Path) -> None:
    settings = checked(config(tmp_path, dataset_episodes=2))
    found = inputs.recorded(settings)
    assert found is not None and len(found.replay(episodes=2)) == 2 * STEPS
    assert train(settings) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "null"}, f"dataset is null: loop=offline needs it; recorded here: {NAME}"),
        ({"dataset": "sound/randon-v0"}, f"did you mean {NAME}"),
        ({"updates": "null"}, "updates is null: loop=offline needs it"),
        ({"env_steps": 100}, "env_steps=100 has no meaning with loop=offline"),
        ({"loop": "online", "env_steps": 100}, "updates=12 has no meaning with loop=online"),
        ({"loop": "online", "updates": "null"}, "env_steps is null: loop=online needs it"),
        ({"dataset_episodes": 5}, "dataset_episodes=5: the dataset sound/random-v0 has 4 episodes"),
        ({"task.action_repeat": 2}, "has action_repeat=1, and not 2"),
        ({"render_size": 44}, "has render_size=40, and not 44"),
        ({"task.env_id": "Short-v0"}, "has environment=Sound-v0, and not Short-v0"),
        ({"init_from": "nowhere"}, "init_from=nowhere: nowhere does not exist"),
        (
            {"init_from": "nowhere", "init_parts": "agent", "encoder": "frozen"},
            "encoder=frozen needs init_parts=trunk",
        ),
        ({"init_parts": "agent"}, "init_parts=agent needs init_from=RUN"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError) as caught:
        train(config(folder, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not folder.exists()


def test_a_run_does_not_go_on_with_another_dataset_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(config(tmp_path / "run")) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "others"))
    write(NAME, [played(seed) for seed in range(9, 9 + EPISODES)], origin())
    with pytest.raises(ValueError, match="the dataset is not the one"):
        train(config(tmp_path / "run", updates=20))


# -- online with a dataset -------------------------------------------------------------------------


BOTH = {"loop": "online", "updates": "null", "env_steps": 60, "eval_every": 30}


def test_an_online_run_takes_half_of_each_batch_from_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    update = SAC.update

    def watched(agent: SAC, batch: Batch) -> Metrics:
        assert batch.obs.rest is not None
        own, recorded = batch.obs.frames, batch.obs.rest.frames
        seen.append((len(batch.obs.rest), len(batch.obs)))
        assert len(recorded) >= EPISODES * (STEPS + 1) > len(own)
        return update(agent, batch)

    monkeypatch.setattr(SAC, "update", watched)
    assert train(config(tmp_path, **BOTH)) == 0
    assert seen == [(4, 8)] * 35


def test_a_resumed_online_run_with_a_dataset_is_the_run_that_was_not_stopped(
    tmp_path: Path,
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(config(whole, **BOTH)) == 0
    assert train(config(parts, **BOTH | {"env_steps": 41})) == 0
    assert train(config(parts, **BOTH)) == 0
    for key in ("agent", "generator", "metrics"):
        assert_equal(newest(parts)[key], newest(whole)[key])


# -- what is taken over ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    assert train(config(folder)) == 0
    return folder


def trained_trunk(folder: Path, **changes: Any) -> dict[str, Any]:
    """The trunk of a run that has ended."""
    assert train(config(folder, **changes)) == 0
    return newest(folder)["agent"]["modules"]["trunk"]


def test_frozen_is_frozen_and_finetune_moves(pretrained: Path, tmp_path: Path) -> None:
    theirs = newest(pretrained)["agent"]["modules"]["trunk"]
    changes = {"init_from": pretrained, "objective": "none", "seed": 5}
    assert_equal(trained_trunk(tmp_path / "frozen", encoder="frozen", **changes), theirs)
    for encoder in ("finetune", "scratch"):
        trunk = trained_trunk(tmp_path / encoder, encoder=encoder, **changes)
        moved = sum(float((trunk[name] - theirs[name]).abs().mean()) for name in theirs)
        assert (0 < moved < 0.1) if encoder == "finetune" else moved > 0.1


def test_an_online_run_begins_with_a_pretrained_trunk(pretrained: Path, tmp_path: Path) -> None:
    theirs = newest(pretrained)["agent"]["modules"]["trunk"]
    online = {"loop": "online", "updates": "null", "dataset": "null", "env_steps": 30}
    changes = online | {"init_from": pretrained, "objective": "none", "encoder": "frozen"}
    assert_equal(trained_trunk(tmp_path / "run", **changes), theirs)


def test_a_trunk_computes_the_same_in_an_agent_that_centres_pixels(
    pretrained: Path, tmp_path: Path
) -> None:
    """SAC does not centre them, and DrQ-v2 does."""
    theirs = curl.load(pretrained, device="cpu").agent
    changes = {"agent": "drqv2", "objective": "none", "augmentation": "crop"}
    changes |= {"init_from": pretrained, "encoder": "frozen"}
    assert train(config(tmp_path / "run", **changes)) == 0
    ours = curl.load(tmp_path / "run", device="cpu").agent
    assert isinstance(theirs, SAC) and isinstance(ours, DrQV2)
    size = theirs.query.size
    pixels = torch.randint(256, (2, theirs.trunk.channels, size, size)).byte()
    assert ours.trunk.centred and not theirs.trunk.centred
    torch.testing.assert_close(ours.trunk(pixels), theirs.trunk(pixels))


def test_a_trunk_of_other_strides_is_refused(pretrained: Path, tmp_path: Path) -> None:
    """Its weights have the same shapes."""
    changes = {"init_from": pretrained, "agent.strides": "[2,2,1,1]"}
    with pytest.raises(
        ValueError, match=r"init_from=.* does not fit: its strides are \[2, 1, 1, 1"
    ):
        train(config(tmp_path / "run", **changes))


def test_the_whole_agent_is_taken_over(pretrained: Path, tmp_path: Path) -> None:
    settings = checked(config(tmp_path, init_from=pretrained, init_parts="agent"))
    from curl.run.build import build_agent

    agent = build_agent(settings, action_dim=1, generator=torch.Generator())
    inputs.take_over(agent, inputs.taken_in(settings))
    assert_equal(agent.state(), newest(pretrained)["agent"])
    other = checked(config(tmp_path, init_from=pretrained, init_parts="agent", agent="drqv2"))
    with pytest.raises(ValueError, match=r"init_from=.* does not fit"):
        agent = build_agent(other, action_dim=1, generator=torch.Generator())
        inputs.take_over(agent, inputs.taken_in(other))


def test_an_agent_that_learns_on_without_a_dataset_is_told(
    pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"loop": "online", "updates": "null", "env_steps": 8, "initial_steps": 1}
    both = {"init_from": pretrained, "init_parts": "agent"}
    with caplog.at_level("WARNING", "curl"):
        assert train(config(tmp_path / "mixed", **changes, **both)) == 0
        assert "dataset is null" not in caplog.text
        assert train(config(tmp_path / "alone", **changes, **both, dataset="null")) == 0
    assert "dataset is null: the agent learns on from the run's own experience" in caplog.text


def test_a_resume_does_not_need_the_pretrained_run_any_more(
    pretrained: Path, tmp_path: Path
) -> None:
    gone = Path(shutil.copytree(pretrained, tmp_path / "gone"))
    changes = {"init_from": gone, "objective": "none", "encoder": "frozen"}
    before = trained_trunk(tmp_path / "run", **changes)
    shutil.rmtree(gone)
    assert_equal(trained_trunk(tmp_path / "run", updates=16, **changes), before)
    assert newest(tmp_path / "run")["counters"]["updates"] == 16


def test_a_trunk_of_other_sizes_is_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"init_from=.* does not fit: its convolutions.0.weight is \[32"
    ) as caught:
        train(config(tmp_path / "run", init_from=pretrained, agent__filters=8))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_no_recorded_episode_is_one_of_an_evaluation() -> None:
    """Not by luck: the seeds of the two lie in ranges that do not meet."""
    seeds = {
        stream: {episode_seed(seed, stream, i) for seed in range(30) for i in range(30)}
        for stream in (Stream.RECORDING, Stream.EVALUATION, Stream.TRAINING)
    }
    assert min(seeds[Stream.RECORDING]) >= 2**31
    assert max(seeds[Stream.EVALUATION] | seeds[Stream.TRAINING]) < 2**31
