"""An animation that says what to do where a video cannot be written; imports Matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.animation import FuncAnimation, writers
from PIL import Image


class Movie(FuncAnimation):
    """`FuncAnimation` whose `save` names the remedy where ffmpeg is missing.

    Matplotlib would draw all pictures and hand them to Pillow, which complains of the file's name.
    """

    def save(self, filename: str | Path, writer: Any = None, *args: Any, **kwargs: Any) -> None:
        """Write the animation, as `FuncAnimation.save` does.

        Raises
        ------
        RuntimeError
            If the program that writes such a file is missing.
        """
        name = rcParams["animation.writer"] if writer is None else writer
        if isinstance(name, str) and not writers.is_available(name) and not by_pillow(filename):
            raise RuntimeError(
                f"{filename}: Matplotlib writes it by {name}, which was not found. Save a .gif, or "
                "install ffmpeg; it also comes with `pip install imageio-ffmpeg` and "
                "`plt.rcParams['animation.ffmpeg_path'] = imageio_ffmpeg.get_ffmpeg_exe()`."
            )
        super().save(filename, writer, *args, **kwargs)


def by_pillow(filename: str | Path) -> bool:
    """Whether Pillow, which Matplotlib falls back to, can write a file of this name."""
    kind = Image.registered_extensions().get(Path(filename).suffix.lower())
    return kind in Image.SAVE
