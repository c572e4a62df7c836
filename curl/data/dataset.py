"""Reads recorded episodes from local Minari datasets, and fills replay buffers from them.

An episode of T agent steps holds T + 1 single frames, uint8 [T + 1, H, W, 3], and the actions,
rewards and ends between them. Frames are not stacked: `Dataset.replay` puts them into a
`ReplayBuffer`, so batches, lazy stacks and crops are those of training.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from curl.checks import integer
from curl.data.episode import Episode, Origin
from curl.data.layout import (
    DATA,
    METADATA,
    OURS,
    SKIPPED,
    DatasetError,
    action_space,
    digests,
    frame_space,
    local_names,
    place,
    require_sizes,
    root,
)
from curl.data.mapped import mapped_frames
from curl.data.replay import ReplayBuffer

log = logging.getLogger("curl")

CACHE = "cache"  # beside the data: what can be made from them again


class Dataset:
    """A dataset that `read` has found. Its episodes stay on the disk until they are asked for.

    Attributes:
        name: of the dataset.
        folder: where it lies.
        origin: where its episodes come from.
        lengths: transitions per episode.
        size: bytes on the disk.
        digests: name of each file with episodes -> its SHA-256.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from minari.dataset.minari_storage import MinariStorage

        self.name, self.folder = name, folder
        metadata = json.loads((folder / DATA / METADATA).read_text(encoding="utf-8"))
        if OURS not in metadata:
            raise DatasetError(f"the dataset {name} was not recorded by this program")
        self.origin = Origin.model_validate(
            {key: value for key, value in metadata[OURS].items() if key in Origin.model_fields}
        )
        # Without its spaces Minari would build the environment that the file names.
        if not {"observation_space", "action_space"} <= set(metadata):
            raise ValueError("it does not say what its frames and actions are")
        self.digests: dict[str, str] = dict(metadata[OURS]["files"])
        self._storage = MinariStorage.read(folder / DATA)
        self._require_spaces()
        attributes = list(self._storage.get_episode_metadata(range(metadata["total_episodes"])))
        self.lengths = [int(each["total_steps"]) for each in attributes]
        self._seeds = [each.get("seed") for each in attributes]
        self._skipped = [int(each.get(SKIPPED, 0)) for each in attributes]
        self.size = sum(path.stat().st_size for path in (folder / DATA).iterdir())
        if not self.lengths or min(self.lengths) < 1 or sum(self.lengths) != self._declared():
            raise ValueError("the lengths of its episodes are not what it declares")
        if any(self._skipped[1:]) or self._skipped[0] < 0:
            raise ValueError("only its first episode may lack its beginning")

    def __repr__(self) -> str:
        counts = f"{len(self)} episodes, {self.transitions:,} transitions"
        return f"<Dataset {self.name}: {counts}, {self.size / 1e9:.2f} GB>"

    def __len__(self) -> int:
        """Episodes."""
        return len(self.lengths)

    @property
    def transitions(self) -> int:
        return sum(self.lengths)

    def require(self, **wanted: Any) -> None:
        """`DatasetError` unless its origin has these values, such as `render_size=100`."""
        for key, value in wanted.items():
            found = getattr(self.origin, key)
            if found != value:
                raise DatasetError(f"the dataset {self.name} has {key}={found}, and not {value}")

    def verify(self) -> None:
        """`DatasetError` unless its files are what was recorded, byte for byte."""
        with refusing(self.name):
            if digests(self.folder / DATA) != self.digests:
                raise ValueError("its files are damaged, or were changed after the recording")

    def episodes(self, first: int | None = None) -> Iterator[Episode]:
        """The episodes in their order, read one at a time.

        Args:
            first: how many of them, from the first one on; None: all.

        Raises:
            DatasetError: one of them cannot be read or has other sizes than the dataset declares.
                ValueError: it has fewer episodes.
        """
        count = self._count(first)
        with refusing(self.name):
            contents = self._storage.get_episodes(range(count))
            for number, content in enumerate(contents):
                yield self._episode(number, content)

    def replay(
        self,
        *,
        episodes: int | None = None,
        capacity: int | None = None,
        frame_stack: int | None = None,
        device: torch.device | None = None,
        target: torch.device | None = None,
        mapped: bool | None = None,
    ) -> ReplayBuffer:
        """A replay buffer that holds the transitions, to sample from and to add others to.

        It draws no transition whose frame stack would reach back beyond the first known frame of
        its episode. An episode that lacks its beginning loses `frame_stack - 1` in this way.

        Args:
            episodes: only the first ones, so many of them; None: all.
            capacity: of the buffer in transitions; None: as many as there are.
            frame_stack: S; None: that of the agent that acted.
            device, target: see `ReplayBuffer`.
            mapped: whether the frames stay in a file that is mapped into memory, on the host
                whatever the `device`: see `curl.data.mapped`. The buffer then takes no other
                transitions. None: if they do not fit into the memory of `device`, and no `capacity`
                is given.

        Raises:
            DatasetError: the dataset is damaged, or the disk has no room for the file of its
                frames. ValueError: the capacity is too small, or there are fewer episodes.
            MemoryError: it does not fit into memory; nothing has been allocated then.
        """
        stack = integer("frame_stack", frame_stack or self.origin.frame_stack)
        first = self._skipped[0]  # number of the first frame, in an episode that begins at frame 0
        lengths = self.lengths[: self._count(episodes)]
        lost = min(stack - 1, lengths[0]) if first else 0
        kept, frames = sum(lengths) - lost, sum(lengths) + len(lengths)
        if capacity is not None and mapped:
            raise ValueError("a memory-mapped dataset takes no transitions: leave capacity out")
        mapped = False if capacity is not None else mapped
        capacity = max(1, kept) if capacity is None else integer("capacity", capacity)
        if capacity < kept:
            raise ValueError(
                f"{kept} transitions of the dataset {self.name} are wanted, and a replay buffer of "
                f"capacity={capacity} would not hold them"
            )
        log.info(
            "dataset %s: %d episodes, %d transitions, %.2f GB on the disk",
            *(self.name, len(self), self.transitions, self.size / 1e9),
        )
        if len(lengths) < len(self):
            log.info("the first %d episodes are taken: %d transitions", len(lengths), sum(lengths))

        def filled(
            number: int,
            device: torch.device | None,
            target: torch.device | None,
            store: torch.Tensor | None = None,
        ) -> ReplayBuffer:
            """With the first frame numbered `number`."""
            buffer = ReplayBuffer(
                capacity=capacity,
                frame_size=self.origin.render_size,
                action_dim=self.origin.action_dim,
                frame_stack=stack,
                device=device,
                target=target,
                filled=store,
            )
            if store is None:
                self.verify()
            counters = {
                "written": number + frames,
                "first": 0,
                "last": kept,
                "episode_start": number + frames - lengths[-1] - 1 if len(lengths) > 1 else 0,
                "rows": max(buffer.rows, frames),
                "oldest": number,
            }
            buffer.restore(self._segments(episodes, number), counters)
            return buffer

        if not mapped:
            try:
                return filled(first, device, target)
            except MemoryError:
                if mapped is False:
                    raise
        self.verify()
        store = self._mapped_frames()
        # Frame number n lies in row n % rows, and the file begins with the first frame.
        number = -(-first // len(store)) * len(store)
        return filled(number, None, target or device, store)

    def _mapped_frames(self) -> torch.Tensor:
        """All frames, uint8 [N, H, W, 3], in a file that is mapped into memory."""
        edge = self.origin.render_size
        try:
            return mapped_frames(
                self.folder / CACHE,
                (episode.frames for episode in self.episodes()),
                shape=(self.transitions + len(self), edge, edge, 3),
                made_of=self.digests,
                what=f"dataset {self.name}",
            )
        except OSError as error:
            raise DatasetError(f"the frames of {self.name} cannot be mapped: {error}") from None

    def _count(self, first: int | None) -> int:
        """How many episodes the first `first` ones are; `ValueError` if there are fewer."""
        count = len(self) if first is None else integer("episodes", first)
        if count > len(self):
            raise ValueError(
                f"the dataset {self.name} has {len(self)} episodes, and {count} are wanted"
            )
        return count

    def _segments(self, episodes: int | None, number: int) -> Iterator[dict[str, Any]]:
        """Each episode as the replay buffer exports frames: with a frame lies what led to it.

        The first frame is numbered `number`.
        """
        for episode in self.episodes(episodes):
            count = len(episode) + 1
            action = torch.zeros(count, self.origin.action_dim)
            action[1:] = torch.from_numpy(episode.actions)
            reward = torch.zeros(count, 1)
            reward[1:, 0] = torch.from_numpy(episode.rewards)
            terminated = torch.zeros(count, 1, dtype=torch.bool)
            terminated[-1] = episode.terminated
            yield {
                "first": number,
                "frames": torch.from_numpy(episode.frames),
                "action": action,
                "reward": reward,
                "terminated": terminated,
                "start": torch.full((count,), number - episode.skipped, dtype=torch.int64),
            }
            number += count

    def _episode(self, number: int, content: Mapping[str, Any]) -> Episode:
        length = self.lengths[number]
        ends = {}
        for column, wanted in (("terminations", "terminated"), ("truncations", "truncated")):
            flags = content[column]
            if flags.dtype != bool or flags.shape != (length,) or flags[:-1].any():
                raise ValueError(f"the {column} of one of its episodes are not one end at its end")
            ends[wanted] = bool(flags[-1])
        episode = Episode(
            content["observations"],
            content["actions"],
            content["rewards"],
            seed=self._seeds[number],
            skipped=self._skipped[number],
            **ends,
        )
        if len(episode) != length:
            raise ValueError(f"one of its episodes has {len(episode)} transitions, not {length}")
        require_sizes(episode, self.origin)
        return episode

    def _require_spaces(self) -> None:
        """What Minari knows of frames and actions is what the origin says."""
        wanted = {
            "observation_space": frame_space(self.origin.render_size),
            "action_space": action_space(self.origin.action_dim),
        }
        for name, space in wanted.items():
            found = getattr(self._storage, name)
            if found != space:
                raise ValueError(f"its {name.replace('_', ' ')} is {found}, and not {space}")

    def _declared(self) -> int:
        return int(self._storage.total_steps)


def read(name: str) -> Dataset:
    """Find a local dataset. Its episodes are not read yet.

    Raises:
        DatasetError: there is none of this name, or it is damaged, or of another program.
    """
    folder = place(name)
    if not folder.is_dir():
        near = difflib.get_close_matches(name, local_names(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}" if near else ""
        raise DatasetError(f"there is no dataset {name} in {root()}{hint}")
    with refusing(name):
        return Dataset(name, folder)


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Whatever a damaged dataset makes Minari, HDF5 or NumPy raise becomes a `DatasetError`."""
    try:
        yield
    except DatasetError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (OURS, *first["loc"])))
        cause = f"{key} of its metadata: {first['msg']}"
    except (OSError, ValueError) as error:
        cause = str(error)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        cause = repr(error)
    except (AssertionError, RuntimeError, RecursionError) as error:
        cause = repr(error)
    else:
        return
    raise DatasetError(f"the dataset {name} cannot be read: {' '.join(cause.split())[:300]}")
