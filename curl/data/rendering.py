"""Frames of an environment: drawn with a chosen camera, checked, and made square.

An environment that is drawn with MuJoCo (dm_control's and Gymnasium's) needs three things that
other environments do not:

- Its OpenGL context must be made current before each frame. Only one context per thread is
  current, and the two libraries do not know of each other: without this, frames turn black once
  another environment was drawn or closed.
- The camera must be one of the model's. Gymnasium's default is a free camera that looks where the
  robot happened to be at the first frame, and loses it when it walks away.
- Where the CPU draws, shadows and reflections take most of a frame's time.

Shifts (curl/shifts) change what is seen: here they are told of each episode, and asked while and
after a frame is drawn.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from shimmy import DmControlCompatibilityV0

from curl import shifts
from curl.data.seeding import Stream, sequence
from curl.shifts.base import Look, Simulation, changed

log = logging.getLogger("curl")

DISPLAY_SIZE = 256  # edge of a frame for people, pixels


class Frames(gym.ObservationWrapper[np.ndarray, Any, Any]):
    """Observations are frames, uint8 [size, size, 3], drawn once per step.

    Args:
        name: what refusals call the environment.
        size: edge of the frame in pixels.
        camera: number of one of the model's cameras; None: the first one if there is one.
        shadow_size: edge of MuJoCo's shadow map in texels; 0: no shadows; None keeps the model's
            own.
        reflections: whether MuJoCo draws what a floor mirrors.
        look: what is shifted.

    Raises:
        ValueError: an unknown camera, a camera for an environment that has none, or a shift that
            makes no sense here.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        name: str,
        size: int,
        camera: int | None = None,
        shadow_size: int | None = None,
        reflections: bool = True,
        look: Look | None = None,
    ) -> None:
        super().__init__(env)
        self.name, self.size = name, size
        self.look = look if look is not None else Look({})
        self.observed_space = env.observation_space
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.scene = scene_of(env)
        self.scene.simplify(shadow_size, reflections)
        self.scene.prepare(name, size, camera)
        self.look.fit(name, self.scene.simulation)
        self._checked = False
        self._seeds = np.random.default_rng()  # of resets without one
        self.observed: Any = None
        """What the environment itself observed last."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode, whose look comes from its seed.

        Resets without a seed continue from the last one that was given, as those of Gymnasium do.
        """
        if seed is not None:
            self._seeds = np.random.default_rng(sequence(seed, Stream.SHIFTS, 1))
        own = int(self._seeds.integers(2**31)) if seed is None else seed
        self.look.begin(sequence(own, Stream.SHIFTS))
        return super().reset(seed=seed, options=options)

    def require_sense(self, shift: Mapping[str, Mapping[str, Any]]) -> None:
        """`ValueError` if a shift is unknown or makes no sense here. The look stays as it is."""
        shifts.make(shift).fit(self.name, self.scene.simulation)

    def observation(self, observation: Any) -> np.ndarray:
        self.observed = observation
        return self.render()

    def render(self) -> np.ndarray:
        """The agent's frame, in memory of its own.

        Raises:
            ValueError: it is no colour image, or the first one shows nothing although MuJoCo
                drew it.
        """
        pixels = square(self._drawn(self.size), self.size)
        if not self._checked:
            self._checked = True
            if is_one_colour(pixels):
                self.scene.nothing_to_see(self.name, pixels)
        return self.look.after(pixels, self._time)

    def display(self) -> np.ndarray:
        """A frame for people, uint8 with even sides, larger where MuJoCo can draw it."""
        pixels = self.look.after(self._drawn(DISPLAY_SIZE), self._time)
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        return np.pad(pixels, [*odd, (0, 0)], mode="edge")  # a copy

    def _drawn(self, size: int) -> np.ndarray:
        """The shifted scene, uint8 [H, W, 3], about `size` pixels wide and high."""
        simulation, time = self.scene.simulation, self._time
        with self.look.applied(simulation, time, size):
            pixels = rgb(self.name, self.scene.draw(size))
            return self.look.behind(pixels, simulation, time)

    @property
    def _time(self) -> int:
        """Env steps since the reset."""
        return self.get_wrapper_attr("episode_lengths")

    def close(self) -> None:
        self.scene.close()
        super().close()


# -- scenes: how an environment is drawn -----------------------------------------------------------


class Scene(Protocol):
    """Draws an environment."""

    @property
    def simulation(self) -> Simulation | None:
        """What MuJoCo draws; None where it draws nothing."""

    def simplify(self, shadow_size: int | None, reflections: bool) -> None:
        """Leave out what costs time to draw. Before anything else."""

    def prepare(self, name: str, size: int, camera: int | None) -> None:
        """Before the first frame."""

    def draw(self, size: int) -> Any:
        """A frame of about `size` x `size` pixels, as the environment gives it."""

    def arguments(self) -> dict[str, Any]:
        """What the environment's constructor must be given for `render()` to draw such frames."""
        raise NotImplementedError

    def nothing_to_see(self, name: str, pixels: np.ndarray) -> None:
        """Warn of or refuse a first frame of one colour."""

    def close(self) -> None:
        """Give back what was opened, before the environment is closed."""


class OtherScene:
    """An environment that draws itself."""

    simulation = None

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env

    def simplify(self, shadow_size: int | None, reflections: bool) -> None:
        pass

    def prepare(self, name: str, size: int, camera: int | None) -> None:
        if camera is not None:
            raise ValueError(
                f"task.camera={camera}: {name} has no cameras to choose from; "
                "leave task.camera out (null)"
            )

    def draw(self, size: int) -> Any:
        return self.env.render()

    def arguments(self) -> dict[str, Any]:
        return {}

    def nothing_to_see(self, name: str, pixels: np.ndarray) -> None:
        if multiprocessing.parent_process() is None:  # once, not in each evaluation process
            warn_of_one_colour(name, tuple(pixels[0, 0].tolist()))

    def close(self) -> None:
        pass


class MujocoScene:
    """What both ways of drawing with MuJoCo share."""

    name = ""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env

    @property
    def model(self) -> Any:
        """mujoco.MjModel."""
        raise NotImplementedError

    def simplify(self, shadow_size: int | None, reflections: bool) -> None:
        if shadow_size is not None:
            self.model.vis.quality.shadowsize = shadow_size
        if shadow_size == 0:
            self.model.light_castshadow[:] = 0
        if not reflections:
            self.model.mat_reflectance[:] = 0

    def choose(self, camera: int | None, own: int | str | None) -> int | str:
        """The number of a camera, or its name, or -1 for the free camera.

        Args:
            camera: of the task; None: the environment's own, else the first one, if there is one.
            own: the camera that the environment chose for itself.
        """
        names = [self.model.camera(i).name or "unnamed" for i in range(self.model.ncam)]
        if camera is None:
            return own if own is not None else 0 if names else -1
        if not 0 <= camera < len(names):
            there = ", ".join(f"{number} ({text})" for number, text in enumerate(names))
            raise ValueError(
                f"task.camera={camera}: {self.name} has "
                + (f"the cameras {there}" if names else "no cameras; leave task.camera out (null)")
            )
        return camera

    @property
    def simulation(self) -> Simulation:
        return self

    @property
    def data(self) -> Any:
        """mujoco.MjData. The model of an environment may be replaced at a reset, and so may it."""
        raise NotImplementedError

    @property
    def camera(self) -> int:
        """Number of the model's camera that draws; -1 for the free camera."""
        raise NotImplementedError

    @property
    def context(self) -> Any:
        """mujoco.MjrContext: what OpenGL holds of the model, its textures among it."""
        raise NotImplementedError

    def free_camera(self, size: int) -> Any:
        """mujoco.MjvCamera of frames of that size."""
        raise NotImplementedError

    def upload(self, texture: int) -> None:
        """Let the frames of this environment show the model's texture of that number as it is."""
        self._in_context(lambda: mujoco().mjr_uploadTexture(self.model, self.context, texture))

    def visible_geoms(self, size: int) -> np.ndarray:
        """int [size, size]: the geom in each pixel, -1 for the sky, -2 for what is no geom."""
        scene, flags = self._updated(size), mujoco().mjtRndFlag
        pixels = self._unlit(size, scene, {flags.mjRND_SEGMENT: 1, flags.mjRND_IDCOLOR: 1})
        numbers = pixels.astype(np.int32) @ np.array([1, 2**8, 2**16], np.int32)
        geoms = np.full(max(scene.ngeom, numbers.max()) + 1, -2)
        geoms[0] = -1
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco().mjtObj.mjOBJ_GEOM:
                geoms[geom.segid + 1] = geom.objid
        return geoms[numbers]

    def without_sky(self) -> AbstractContextManager[None]:
        """While it is entered, frames of this environment are black where there is no geom."""
        kinds, types = mujoco().mjtTexture, self.context.textureType
        sky = types == int(kinds.mjTEXTURE_SKYBOX)
        return changed((types, np.where(sky, int(kinds.mjTEXTURE_2D), types)))

    def coverage(self, size: int, without: np.ndarray) -> np.ndarray:
        """uint8 [size, size]: how much of each pixel is covered by something, 255: all of it.

        It is antialiased as frames are.

        Args:
            without: bool [number of geoms]: those that cover what is behind them, but count for
                nothing themselves, as the sky does.
        """
        scene = self._updated(size)
        for geom in scene.geoms[: scene.ngeom]:
            of_model = geom.objtype == mujoco().mjtObj.mjOBJ_GEOM and geom.objid >= 0
            counts = not (of_model and without[geom.objid])
            geom.matid, geom.specular, geom.reflectance, geom.emission = -1, 0, 0, counts
            geom.rgba = [1, 1, 1, geom.rgba[3]] if counts else [0, 0, 0, 1]
        scene.nlight = 0
        off = ("mjRND_SKYBOX", "mjRND_FOG", "mjRND_HAZE")
        flags = {getattr(mujoco().mjtRndFlag, name): 0 for name in off}
        return self._unlit(size, scene, flags)[..., 0]

    def _unlit(self, size: int, scene: Any, wanted: dict[Any, int]) -> np.ndarray:
        """A scene drawn without shadows and reflections, uint8 [size, size, 3].

        Args:
            wanted: flags of the drawing, and their values; they are put back.
        """
        flags = mujoco().mjtRndFlag
        before = scene.flags.copy()
        pixels = np.empty((size, size, 3), np.uint8)
        viewport = mujoco().MjrRect(0, 0, size, size)

        def draw() -> None:
            mujoco().mjr_render(viewport, scene, self.context)
            mujoco().mjr_readPixels(pixels, None, viewport, self.context)

        try:
            for flag, value in (
                {flags.mjRND_SHADOW: 0, flags.mjRND_REFLECTION: 0} | wanted
            ).items():
                scene.flags[flag] = value
            self._in_context(draw)
        finally:
            scene.flags[:] = before
        return pixels[::-1]  # OpenGL's first row is the lowest

    def _updated(self, size: int) -> Any:
        """mujoco.MjvScene of frames of that size, as things are now."""
        raise NotImplementedError

    def _in_context(self, draw: Callable[[], None]) -> None:
        """Call what needs this environment's OpenGL."""
        raise NotImplementedError

    def nothing_to_see(self, name: str, pixels: np.ndarray) -> None:
        raise ValueError(
            f"{name} is drawn in one colour, {pixels[0, 0].tolist()}: OpenGL does not work here, "
            "or the camera sees nothing; try another opengl (egl, osmesa) or task.camera"
        )


class DmControlScene(MujocoScene):
    """dm_control's environments, through Shimmy."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.bare: Any = env.unwrapped
        self._cameras: dict[int, tuple[Any, Any]] = {}  # size: a model and its camera
        super().__init__(env)

    @property
    def model(self) -> Any:
        return self.bare.physics.model.ptr

    @property
    def data(self) -> Any:
        return self.bare.physics.data.ptr

    @property
    def camera(self) -> int:
        chosen = self.bare.render_kwargs["camera_id"]
        return self.model.camera(chosen).id if isinstance(chosen, str) else chosen

    @property
    def context(self) -> Any:
        return self.bare.physics.contexts.mujoco.ptr

    def free_camera(self, size: int) -> Any:
        return self._camera(size)._render_camera.ptr

    def prepare(self, name: str, size: int, camera: int | None) -> None:
        self.name, keywords = name, dict(self.bare.render_kwargs)
        keywords["camera_id"] = self.choose(camera, keywords.get("camera_id"))
        self.bare.render_kwargs = keywords | {"width": size, "height": size}
        self.bare.render = lambda: self._view(size)  # the environment's wrappers still have a say

    def draw(self, size: int) -> Any:
        self._make_current()
        return self.env.render() if size == self.bare.render_kwargs["width"] else self._view(size)

    def arguments(self) -> dict[str, Any]:
        return {"render_kwargs": dict(self.bare.render_kwargs)}

    def _view(self, size: int) -> Any:
        """What `physics.render` gives, without a new camera and scene for each frame."""
        keywords, physics = self.bare.render_kwargs, self.bare.physics
        if keywords.keys() - {"width", "height", "camera_id"}:
            return physics.render(**keywords | {"width": size, "height": size})
        return self._camera(size).render()

    def _camera(self, size: int) -> Any:
        """dm_control's camera for frames of that size."""
        physics = self.bare.physics
        model, camera = self._cameras.get(size, (None, None))
        if model is not physics.model.ptr:  # an environment may compile a new one at a reset
            from dm_control.mujoco import Camera  # chooses OpenGL when it is first imported

            camera = Camera(physics, size, size, self.bare.render_kwargs["camera_id"])
            self._cameras[size] = physics.model.ptr, camera
        return camera

    def _updated(self, size: int) -> Any:
        camera = self._camera(size)
        camera.update()
        return camera.scene.ptr

    def _in_context(self, draw: Callable[[], None]) -> None:
        self._make_current()
        with self.bare.physics.contexts.gl.make_current() as thread:
            thread.call(draw)

    def close(self) -> None:
        self._make_current()
        self._cameras.clear()

    def _make_current(self) -> None:
        """Even if dm_control believes that it is: it knows of its own contexts alone."""
        context = self.bare.physics.contexts.gl
        with context.make_current() as thread:
            thread.call(context._platform_make_current)


class GymnasiumMujocoScene(MujocoScene):
    """Gymnasium's MuJoCo environments, and others that use its renderer."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.renderer: Any = env.unwrapped.mujoco_renderer  # pyright: ignore
        super().__init__(env)

    @property
    def model(self) -> Any:
        return self.renderer.model

    @property
    def data(self) -> Any:
        return self.renderer.data

    @property
    def camera(self) -> int:
        return self.renderer.camera_id

    @property
    def context(self) -> Any:
        return self.renderer.viewer.con

    def free_camera(self, size: int) -> Any:
        return self.renderer.viewer.cam

    def prepare(self, name: str, size: int, camera: int | None) -> None:
        self.name, renderer = name, self.renderer
        chosen = renderer.camera_id != -1 or getattr(self.env.spec, "kwargs", {}).get("camera_id")
        renderer.camera_id = self.choose(camera, renderer.camera_id if chosen else None)
        renderer.width = renderer.height = size
        buffer = self.model.vis.global_
        buffer.offwidth = max(buffer.offwidth, size, DISPLAY_SIZE)
        buffer.offheight = max(buffer.offheight, size, DISPLAY_SIZE)
        # Gymnasium finds out where things are at the first reset; shifts look before that.
        mujoco().mj_forward(self.model, self.data)
        renderer.render("rgb_array")  # opens the viewer
        self._place_free_camera()

    def draw(self, size: int) -> Any:
        viewer = self.renderer.viewer
        viewer.make_context_current()
        viewer.viewport.width = viewer.viewport.height = size
        return self.env.render()

    def arguments(self) -> dict[str, Any]:
        renderer = self.renderer
        camera = {"camera_id": renderer.camera_id} if renderer.camera_id != -1 else {}
        return {"width": renderer.width, "height": renderer.height, **camera}

    def _updated(self, size: int) -> Any:
        viewer, every = self.renderer.viewer, mujoco().mjtCatBit.mjCAT_ALL
        seen = (viewer.vopt, viewer.pert, viewer.cam, every, viewer.scn)
        mujoco().mjv_updateScene(self.model, self.data, *seen)
        return viewer.scn

    def _in_context(self, draw: Callable[[], None]) -> None:
        self.renderer.viewer.make_context_current()
        draw()

    def close(self) -> None:
        """Free each viewer in its own context.

        Left to the garbage collector, MuJoCo would delete textures by number in whatever context
        is current then; and Gymnasium's close ends GLFW for all other environments too.
        """
        viewers = self.renderer._viewers
        while viewers:
            _, viewer = viewers.popitem()
            viewer.make_context_current()
            viewer.con.free()
            viewer.free()

    def _place_free_camera(self) -> None:
        """As Gymnasium does it, but looking at the model's initial pose.

        Gymnasium looks where the robot is when the first frame is drawn, which differs from one
        instance to the next.
        """
        initial = mujoco().MjData(self.model)
        mujoco().mj_forward(self.model, initial)
        self.renderer.viewer.cam.lookat[:] = np.median(initial.geom_xpos, axis=0)
        self.renderer._set_cam_config()


def mujoco() -> Any:
    """The package, which has no types, and which chooses OpenGL when it is first imported."""
    import mujoco

    return mujoco


def scene_of(env: gym.Env[Any, Any]) -> Scene:
    """How `env` is drawn."""
    if isinstance(env.unwrapped, DmControlCompatibilityV0):
        return DmControlScene(env)
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        if isinstance(renderer, MujocoRenderer):
            return GymnasiumMujocoScene(env)
    return OtherScene(env)


# -- frames ----------------------------------------------------------------------------------------


def rgb(name: str, pixels: Any) -> np.ndarray:
    """A frame as uint8 [H, W, 3].

    Greyscale frames, uint8 [H, W] or [H, W, 1], become three equal channels. The alpha channel of
    RGBA frames, uint8 [H, W, 4], is dropped. Floats are refused: from one frame nobody can tell
    whether they reach 1 or 255.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.size:
        shaped = pixels[..., None] if pixels.ndim == 2 else pixels
        if shaped.ndim == 3 and shaped.shape[2] in (1, 3, 4):
            return shaped.repeat(3, axis=2) if shaped.shape[2] == 1 else shaped[..., :3]
    found = type(pixels).__name__ if pixels is not None else "None"
    if isinstance(pixels, np.ndarray):
        found = f"{pixels.dtype} {list(pixels.shape)}"
    raise ValueError(
        f"{name} renders {found}; frames must be uint8 [height, width, 3] "
        "(RGBA and greyscale uint8 are converted)"
    )


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Area-resample `pixels` [H, W, 3] to uint8 [size, size, 3]: contiguous and always a copy.

    An environment may draw every frame into the same memory.
    """
    if pixels.shape[:2] == (size, size):
        return np.array(pixels, order="C")  # Shimmy's frames have negative strides
    image = torch.as_tensor(np.array(pixels, order="C")).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(size, size), mode="area")
    return image[0].round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def is_one_colour(pixels: np.ndarray) -> bool:
    """Whether all pixels [H, W, 3] of a frame are equal."""
    return bool((pixels == pixels[0, 0]).all())


@functools.cache
def warn_of_one_colour(name: str, colour: tuple[int, ...]) -> None:
    """Once per environment: an evaluation makes its own instance each time."""
    log.warning(
        "the first frame of %s has one colour, %s: if it should show something, its rendering "
        "does not work here (no display, no OpenGL, or a wrong argument in task.kwargs)",
        name,
        list(colour),
    )
