"""The parts of a typed recipe that say what it trains on, and where that lies."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from data_tools.chains import Chains
from data_tools.sample import Task
from launch.recipe.evaluation import Media, Part


class SourceFile(Part):
    """A published file, by its reader's name (docs/data.md); its videos lie in `folder` under the media root.

    `shuffle`: seed of the order of options; null keeps the published one.
    """

    source: str
    path: str
    folder: str = ""
    shuffle: int | None = Field(default=None, ge=0)


class PoseSettings(Part):
    """Pose files of the label files' videos lie in `folder`; null: the cameras' tracks are unknown (docs/rewards.md).

    What they do not say: `depth` of the scene, in the unit of their translations; `field_of_view` in degrees. `still`:
    apparent motion below which a camera is static, as a share of the frame's width over a clip.
    """

    folder: str | None = None
    depth: float = Field(4.0, gt=0)
    field_of_view: float = Field(60.0, gt=0, lt=180)
    still: float = Field(0.015, gt=0, lt=1)


class Data(Part):
    """`rendered`: settings of the rendered clips; otherwise `files`: split -> JSON Lines of samples, or sources.

    `labels`: the folder of published label files that paths of `files` begin with.
    `tasks`: split -> those taken; null: all. `chains`: form that SFT chains are turned into (data_tools/chains.py).
    `max_quarantined`: the share of samples that may be left out because their videos, or their chains, are broken.
    `links_into`: folders that symbolic links in a media root may lead into, besides the roots that the recipe names.
    `one_per_video`: sources of which only the first valid record about each video is taken.
    `media`: source -> the budget of its clips in training, where it is not the run's; in a recipe also the name of a
    file of recipes/media.
    """

    rendered: dict[str, Any] | None = None
    files: dict[str, str | SourceFile | list[SourceFile] | None] | None = None
    labels: str | None = None
    media_root: str | None = None
    links_into: list[str] = []
    poses: PoseSettings = PoseSettings()
    max_quarantined: float = Field(default=0.05, ge=0, lt=1)
    tasks: dict[Annotated[str, Field(pattern="^(sft|rl|val|test)$")], list[Task] | None] = {}
    chains: Chains | None = None
    one_per_video: list[str] = []
    media: dict[str, Media | None] = {}

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.rendered is None) == (self.files is None):
            raise ValueError("give either data.rendered or data.files")
        if self.files is not None and self.media_root is None:
            raise ValueError("data.files needs data.media_root")
        if self.rendered is not None and self.poses.folder is not None:
            raise ValueError("data.poses.folder is for data.files: the tracks of rendered clips are known")
        return self

    def listed(self) -> dict[str, list[str | SourceFile]]:
        """The label files of each split."""
        given = {split: file if isinstance(file, list) else [file] for split, file in (self.files or {}).items()}
        return {split: [one for one in files if one] for split, files in given.items()}

    def paths(self) -> dict[str, list[str]]:
        """The same as paths, as they were given."""
        return {
            split: [one if isinstance(one, str) else one.path for one in files]
            for split, files in self.listed().items()
        }

    def sources(self, *splits: str) -> set[str]:
        """Names of the sources of these splits' files."""
        files = [file for split in splits for file in self.listed().get(split, [])]
        return {file.source for file in files if isinstance(file, SourceFile)}

    @model_validator(mode="after")
    def _settings_name_sources(self) -> "Data":
        chosen = {f"media.{name}": name for name, media in self.media.items() if media}
        for key, name in {**chosen, **{f"one_per_video: {name}": name for name in self.one_per_video}}.items():
            if name not in self.sources("sft", "rl", "val", "test"):
                raise ValueError(f"{key}: no file of data.files has this source; leave it out")
            if key in chosen and name in self.sources("test"):
                raise ValueError(f"{key}: of the test split, too: give its questions a set, eval.sets.<name>.media")
        return self
